"""Writes the golden records as the files that users have on disk."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from croc_cli.benchmarks.registry import benchmarks

GOLDEN = Path(__file__).parent / "golden"
LEFT_OUT = {"llava_test.jsonl"}  # asks the records of val.json again, without answers


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return content


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(stream, format="PNG")
    return stream.getvalue()


def write_files(name: str, root: Path) -> Path:
    """Write a benchmark's golden records below a data root, in the layout of LLaVA's guide, and return the root."""
    folder = root / benchmarks()[name].folder
    for file_name, file in load(name)["files"].items():
        if file["format"].startswith("rows"):
            _write_parquet(folder / "test.parquet", file["content"])
        elif file_name not in LEFT_OUT:
            _write(folder / file_name, file["format"], file["content"])
    return root


def _write(path: Path, form: str, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "json":
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    else:
        path.write_text(content, encoding="utf-8")


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    filled = [row | {"image": {"bytes": png(), "path": None}} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(filled), path)


def draw_pictures(name: str, root: Path) -> None:
    """Put a small picture wherever a record of the benchmark names a file."""
    for record in benchmarks()[name].read(root):
        if record.picture is not None and record.picture.path is not None:
            record.picture.path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (len(record.key) * 7 % 256, 90, 160)).save(record.picture.path, format="PNG")
