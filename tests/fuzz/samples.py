"""Hostile webdataset tars, and mixes whose files were damaged."""

import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.case import Case
from tests.fuzz.rows import commands, damage, good_row, png, recipe, spoil, strange, writes

_NAMES = ("000", "cat.v2", "dog.final", "a/b", "../out", "/abs", "x" * 120, "caf\udce9", ".hidden", "two words", "a\\b")
_SUFFIXES = ("jpg", "JPG", "png", "jfif", "avif", "txt", "json", "cls", "seg.png", "input.jpg", "outputs.txt")


def cases(seed: int) -> Iterator[Case]:
    """Yield tars with strange members, and good mixes with a part of them damaged."""
    rng = random.Random(seed)
    for _ in range(3):
        content = _tar(rng)
        if rng.random() < 0.3:
            content = damage(rng, content)
        name = rng.choice(("a.tar", "A.TAR"))
        files = {name: content, "m.yaml": recipe(name, rng)}
        yield Case(commands(rng, name), files, writes=writes(name), note="hostile tar")
    yield _damaged_mix(rng)


def _tar(rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=rng.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT))) as tar:
        for name in rng.sample(_NAMES, 4):
            for suffix in rng.sample(_SUFFIXES, 3) if rng.random() < 0.6 else ("jpg", "txt"):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                content = _member(rng, suffix.lower())
                member.size = len(content)
                try:
                    tar.addfile(member, io.BytesIO(content))
                except (ValueError, UnicodeError):  # a name that this form of tar cannot hold
                    continue
    return stream.getvalue()


def _member(rng: random.Random, suffix: str) -> bytes:
    if suffix.endswith("json"):
        row: Any = good_row(rng, 1)
        row = spoil(rng, row) if rng.random() < 0.6 else row
        return json.dumps(row).encode()
    if suffix.endswith("txt"):
        return rng.choice((b"a thing", b"", b"caf\xe9", b"\xef\xbb\xbfthing", "thing".encode("utf-16"), b"<image>"))
    return png() if rng.random() < 0.8 else b""


def _damaged_mix(rng: random.Random) -> Case:
    rows = [good_row(rng, number) for number in range(5)]
    files = {
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "0.png": png(),
        "m.yaml": recipe("a.jsonl", rng),
    }
    kind, inner = rng.randrange(4), rng.randrange(1 << 30)
    mix = "mixes/it-finetune"

    def check(_: Any, folder: Path) -> str | None:
        if (folder / "damaged").exists() or not (folder / mix).is_dir():
            return None
        (folder / "damaged").write_bytes(b"")  # once, behind the first command
        _damage(random.Random(inner), folder / mix, kind)
        return None

    tried = (
        ("data", "mix", "m.yaml", "--stage", "finetune"),
        ("data", "verify", mix),
        ("data", "stats", mix),
        ("data", "export", mix, "out.json"),
        ("data", "verify", mix, "--fix"),
        ("data", "mix", "m.yaml", "--stage", "finetune"),
    )
    return Case(tried, files, writes=(*writes("a.jsonl"), "damaged"), check=check, note="damaged mix")


def _damage(rng: random.Random, mix: Path, kind: int) -> None:
    if kind == 0:
        file = mix / "manifest.json"
        values = json.loads(file.read_text())
        file.write_text(json.dumps(spoil(rng, values)))
        return
    names = [mix / "manifest.json", mix / "rows.jsonl", *sorted((mix / "index").iterdir())]
    file = rng.choice(names)
    if kind == 1:
        file.write_bytes(damage(rng, file.read_bytes()))
    elif kind == 2:
        content = bytearray(file.read_bytes())
        for _ in range(rng.choice((1, 20))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(bytes(content))
    elif file.suffix == ".npy":
        choices = (np.arange(5.0), np.zeros((5, 2), "<u4"), np.array([strange(rng)] * 5, dtype=object), np.arange(3))
        np.save(file, choices[rng.randrange(4)], allow_pickle=True)
    else:
        file.unlink()
