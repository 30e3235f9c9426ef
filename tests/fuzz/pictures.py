"""Hostile pictures: damaged, disguised, of odd modes and sizes, or no files at all."""

import io
import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz.case import Answer, Case

_KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_OTHER_KINDS = ("ICO", "TGA", "PCX", "PDF", "EPS", "ICNS", "DDS", "SGI")
_MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F")
_ROW = {"id": "0", "image": "it.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}
_ROWS = json.dumps([{**_ROW, "conversations": [*_ROW["conversations"], {"from": "gpt", "value": "It."}]}]).encode()
_DATA = ("rows.json", "--image-folder", "images")
_COMMANDS = (
    ("data", "verify", *_DATA, "--deep", "--workers", "1"),
    ("data", "show", *_DATA, "--recipe", "nano"),
    ("data", "show", *_DATA, "--recipe", "nano", "--html", "out/page.html"),
    ("data", "stats", *_DATA),
    ("chat", "images/it.jpg", "What?", "--model", "./none"),
)
_WEIGHTS = (1, 5, 5, 5, 5)
"""Checks start processes of their own, which takes a second each time."""
_MAKES = ("out", "rows.json.problems.txt", ".croc.json")


def cases(seed: int) -> Iterator[Case]:
    """Yield rows whose one picture is hostile."""
    rng = random.Random(seed)
    makers = (_damaged, _odd, _disguised, _tagged, _sized, _noise)
    for _ in range(8):
        note, content = rng.choice(makers)(rng)
        files = {"rows.json": _ROWS, "images/it.jpg": content, "out/keep": b""}
        [command] = rng.choices(_COMMANDS, _WEIGHTS)
        yield Case((command,), files, writes=_MAKES, seconds=20.0, note=note)
    name, make = rng.choice(_NO_FILES)
    [command] = rng.choices(_COMMANDS, _WEIGHTS)
    yield Case((command,), {"rows.json": _ROWS}, writes=_MAKES, seconds=20.0, setup=make, check=_is_named, note=name)


def _is_named(answer: Answer, folder: Path) -> str | None:
    """Say so where a command that prints what it looked at does not name what lies there."""
    words = ("expected a file", "Too many levels", "rows ", "page.html")
    del folder
    return None if any(word in answer.out + answer.err for word in words) else "what lies there is not named"


def _picture(rng: random.Random, mode: str) -> Image.Image:
    size = rng.randrange(1, 70), rng.randrange(1, 70)
    levels = np.random.default_rng(rng.randrange(2**32)).integers(0, 65536, (size[1], size[0]), dtype=np.uint16)
    if mode in ("I;16", "I", "F"):
        scaled = levels.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
        return Image.fromarray(scaled * (1 if mode == "I;16" else rng.choice((1, -1, 0))))
    return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB").convert(mode)


def _written(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    try:
        picture.save(stream, kind, **options)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError):  # not every format has every mode
        stream = io.BytesIO()
        picture.convert("L" if picture.mode in ("I;16", "I", "F") else "RGB").convert("RGB").save(stream, kind)
    return stream.getvalue()


def _odd(rng: random.Random) -> tuple[str, bytes]:
    mode, kind = rng.choice(_MODES), rng.choice(_KINDS)
    options = {"transparency": rng.randrange(256)} if kind in ("PNG", "GIF") and mode in ("P", "L", "1") else {}
    return f"{mode} {kind}", _written(_picture(rng, mode), kind, **options)


def _damaged(rng: random.Random) -> tuple[str, bytes]:
    note, whole = _odd(rng)
    content = bytearray(whole)
    how = rng.choice(("cut", "flipped", "doubled", "grown"))
    if how == "cut":
        del content[rng.randrange(len(content)) :]
    elif how == "flipped":
        for _ in range(rng.randrange(1, 30)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif how == "doubled":
        start = rng.randrange(len(content))
        content[start:start] = content[: rng.randrange(len(content))]
    else:
        content += rng.randbytes(rng.randrange(5000))
    return f"{how} {note}", bytes(content)


def _disguised(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(_OTHER_KINDS)
    return f"{kind} named .jpg", _written(Image.new("RGB", (32, 32), "red"), kind)


def _tagged(rng: random.Random) -> tuple[str, bytes]:
    start = rng.choice((b"Exif\0\0II*\0\x08\0\0\0", b"Exif\0\0MM\0*\0\0\0\x08", b"Exif\0\0", b""))
    tag = struct.pack("<HHHII", 1, 0x0112, rng.choice((1, 2, 3, 4, 5)), 1, rng.choice((6, 0, 9, 2**31)))
    exif = start + rng.choice((tag, rng.randbytes(rng.randrange(200))))
    return "damaged EXIF", _written(_picture(rng, "RGB"), rng.choice(("JPEG", "PNG", "WEBP")), exif=exif)


def _sized(rng: random.Random) -> tuple[str, bytes]:
    side, other = rng.choice(((60_000, 60_000), (2**31 - 1, 1), (0, 0), (1, 40_000), (13_000, 13_000)))
    png = bytearray(_written(Image.new("L", (8, 8)), "PNG"))
    png[16:24] = struct.pack(">II", side, other)
    bmp = bytearray(_written(Image.new("RGB", (8, 8)), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, other)
    return f"says it has {side} × {other} pixels", bytes(rng.choice((png, bmp)))


def _noise(rng: random.Random) -> tuple[str, bytes]:
    start = rng.choice(
        (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"II*\0", b"MM\0*", b"BM")
    )
    return "noise", start + rng.randbytes(rng.randrange(3000))


def _make_pipe(folder: Path) -> None:
    (folder / "images").mkdir()
    os.mkfifo(folder / "images" / "it.jpg")


def _make_socket(folder: Path) -> None:
    (folder / "images").mkdir()
    here = os.getcwd()
    os.chdir(folder / "images")  # a socket's path may have 107 letters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("it.jpg")
    finally:
        os.chdir(here)


def _make_link(target: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "images").mkdir()
        (folder / "images" / "it.jpg").symlink_to(target)

    return make


def _make_folder(folder: Path) -> None:
    (folder / "images" / "it.jpg").mkdir(parents=True)


_NO_FILES: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("a pipe", _make_pipe),
    ("a socket", _make_socket),
    ("a device", _make_link("/dev/zero")),
    ("a folder", _make_folder),
    ("a link in a circle", _make_link("it.jpg")),
)
