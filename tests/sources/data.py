"""Rows, pictures and files in every form that data comes in, for the tests of sources, data and commands."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from croc_cli.sources.read.spec import MixSpec, SourceSpec


def turns(question: str = "<image>\nWhat colour?", answer: str = "Red.") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def image_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    conversations = turns(answer=f"Picture {number} shows a shape.")
    return {"id": f"{number:09d}", "image": f"{number:05d}.jpg", "conversations": conversations, **changes}


def text_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"id": f"t{number}", "conversations": turns(f"How much is {number} + 1?", str(number + 1)), **changes}


def picture(number: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    image = Image.new("RGB", size, (17 * number % 256, 90, 200 - number % 100))
    ImageDraw.Draw(image).ellipse((5 + number % 20, 5, 30, 30), fill=(250, number % 256, 10))
    return image


def encoded(image: Image.Image, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(encoded(picture(number)))
    return folder


def write_json(path: Path, rows: list[Any], *, indent: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def small_spec(root: Path, **changes: Any) -> MixSpec:
    """Two sources below a data root: ten rows with pictures, and twenty of text."""
    write_pictures(root / "pictures", 10)
    write_json(root / "captions.json", [image_row(number) for number in range(10)])
    write_jsonl(root / "text.jsonl", [text_row(number) for number in range(20)])
    sources = (
        SourceSpec("captions", root / "captions.json", image_root=root / "pictures"),
        SourceSpec("text", root / "text.jsonl"),
    )
    return MixSpec(**{"name": "small", "sources": sources, "data_root": root, **changes})
