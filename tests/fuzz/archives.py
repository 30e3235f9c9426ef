"""Hostile archives: damaged, with members that lead outside, with names that no disk has; through `croc data fetch`."""

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.case import Answer, Case

CATALOG = """
one:
  title: A set
  group: images
  homepage: https://example.com
  licence: none
  files:
  - {{kind: web, url: "http://192.0.2.1/{name}", size: {size}, unpack: {{to: out/pictures{more}}}}}
"""
NAMES = (
    "a", "a/b", "a/b/c", "../out.jpg", "/etc/x", "x" * 300, "d/" + "y" * 300, "a/../b", "./a", "a//b", "C:/x", "a\\b",
    "é", "\ud83d", "a\x1b[2J", "a\nb", "", ".", "con", ".croc-unpacking/member", ".croc.json", "._a", "__MACOSX/a",
    "a" + "/a" * 600, " ", "-rf", "~", "$HOME", "a\u202eb", "1.JPG", "1.jpg", "../" * 30 + "tmp/x",
)  # fmt: skip


def cases(seed: int) -> Iterator[Case]:
    """Yield archives that lie where a download of theirs was finished, so that only their unpacking is left."""
    rng = random.Random(seed)
    for _ in range(4):
        yield _case(rng)


def _case(rng: random.Random) -> Case:
    form = rng.choice(["zip", "tar", "tar.gz", "tgz"])
    content = _zip(rng) if form == "zip" else _tar(rng)
    if form in ("tar.gz", "tgz"):
        content = gzip.compress(content)
    if rng.random() < 0.5:
        content = _damaged(rng, content)
    name = f"set.{form}"
    more = rng.choice(
        ["", ", flat: true", ", num_files: 3", ", only: ['*.jpg']", ", max_bytes: 5000", ", max_files: 2"]
    )
    files = {
        "catalog.yaml": CATALOG.format(name=name, size=len(content), more=more).encode(),
        f"root/.fetch/archives/one/{name}": content,
    }
    if rng.random() < 0.2:
        files["root/out/pictures/a"] = b"the user's"
    command = ("data", "fetch", "one", "--root", "root", "--catalog", "catalog.yaml", "--yes")
    return Case(
        (command,),
        files,
        allowed=frozenset({0, 1, 2}),
        writes=("root/.fetch", "root/out"),
        check=_check,
        note=f"{form}, {len(content)} bytes{more}",
    )


def _check(answer: Answer, folder: Path) -> str | None:
    """Nothing half-unpacked stays, and what is the user's stays."""
    out = folder / "root" / "out"
    if left := [path for path in out.rglob("*") if "unpacking" in path.name and path.name != "member"]:
        return f"left {left[0].relative_to(folder)}"
    if answer.code == 0 and "traceback" in answer.err.lower():
        return "a traceback"
    return None


def _zip(rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as packed:
        for name in rng.sample(NAMES, rng.randint(0, 5)):
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "e")
            kind = rng.choice([0, 0, 0, 0o100644, 0o120777, 0o040755, 0o010644])
            info.external_attr = kind << 16
            packed.writestr(info, rng.randbytes(rng.choice([0, 10, 3000])))
    return stream.getvalue()


def _tar(rng: random.Random) -> bytes:
    stream = io.BytesIO()
    form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    with tarfile.open(fileobj=stream, mode="w", format=form) as packed:
        for name in rng.sample(NAMES, rng.randint(0, 5)):
            info = tarfile.TarInfo(name.encode("utf-8", "replace").decode())
            info.type = rng.choice(
                [tarfile.REGTYPE] * 6 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
            )
            content = rng.randbytes(rng.choice([0, 10, 3000])) if info.type == tarfile.REGTYPE else b""
            info.size, info.linkname = len(content), rng.choice(["a", "/etc/passwd", "../../x"])
            packed.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _damaged(rng: random.Random, content: bytes) -> bytes:
    found = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        if not found:
            break
        place = rng.randrange(len(found))
        change = rng.randrange(4)
        if change == 0:
            found[place] = rng.randrange(256)
        elif change == 1:
            del found[place:]
        elif change == 2:
            found[place : place + 8] = rng.randbytes(8)
        else:
            del found[place : place + rng.randint(1, 100)]
    return bytes(found)
