"""Writes a mix in forms that other programs read: LLaVA JSON, JSONL, parquet."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from croc_cli.errors import UsageError
from croc_cli.place import growing_file
from croc_cli.sources.read.index import IMAGE_RANGE, MixFolder
from croc_cli.sources.read.scan import REPORT_EVERY, Progress

FORMS = (".json", ".jsonl", ".parquet")
_BATCH_ROWS = 5000


def export_mix(folder: Path, out: Path, *, progress: Progress | None = None) -> int:
    """Write a mix's rows in its order, in the form that the file's ending says, and return how many.

    Ids are text, leading gpt turns are gone, and image paths start from the data root, so that LLaVA's `image_folder`
    is that one folder. Images in tars are named as `TAR/NAME` and are not taken out.

    Args:
        folder: Of the mix.
        out: A .json, .jsonl or .parquet file; one that an earlier export made is replaced once the new one is complete.
        progress: Told how far it is.

    Raises:
        UsageError: A file that croc did not make lies at `out`; there is no such form, or the folder holds no mix.
    """
    if out.suffix not in FORMS:
        raise UsageError(f"{out}: there is no such form", hint=f"name a file that ends in {', '.join(FORMS)}")
    mix = MixFolder(folder)
    try:
        with growing_file(out) as growing:
            if out.suffix == ".parquet":
                _write_parquet(_rows(mix, progress), growing)
            else:
                _write_json(_rows(mix, progress), growing, as_list=out.suffix == ".json")
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror or error}") from error
    return len(mix)


def _rows(mix: MixFolder, progress: Progress | None) -> Iterator[dict[str, Any]]:
    prefixes = []
    for root in mix.image_roots:
        prefix = os.path.relpath(root, mix.data_root)
        prefixes.append("" if prefix == "." else f"{root}/" if prefix.startswith("..") else f"{prefix}/")
    for position in range(len(mix)):
        if progress is not None and position % REPORT_EVERY == 0:
            progress("writing", position, len(mix))
        row = json.loads(mix.read(position))
        row.pop(IMAGE_RANGE, None)
        prefix = prefixes[int(mix.index.source[position])]
        image = row.get("image")
        if image is not None:
            row["image"] = [prefix + name for name in image] if isinstance(image, list) else prefix + image
        turns = row["conversations"]
        row["conversations"] = turns[turns[0]["from"] == "gpt" :]
        row["id"] = str(row.get("id", mix.key(position)))
        yield row


def _write_json(rows: Iterator[dict[str, Any]], file: Path, *, as_list: bool) -> None:
    with file.open("w", encoding="utf-8", errors="surrogatepass") as stream:
        between = ",\n" if as_list else "\n"
        stream.write("[\n" if as_list else "")
        for number, row in enumerate(rows):
            stream.write((between if number else "") + json.dumps(row, ensure_ascii=False))
        stream.write("\n]\n" if as_list else "\n")


def _write_parquet(rows: Iterator[dict[str, Any]], file: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    turn = pyarrow.struct([("from", pyarrow.string()), ("value", pyarrow.string())])
    schema = pyarrow.schema(
        [("id", pyarrow.string()), ("image", pyarrow.list_(pyarrow.string())), ("conversations", pyarrow.list_(turn))]
    )
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            image = row.get("image")
            batch.append({**row, "image": [image] if isinstance(image, str) else image or []})
            if len(batch) == _BATCH_ROWS:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
