"""Writes a clean copy of a data set: without the rows that have errors, and with what can be put right put right."""

import base64
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from croc_cli.place import check_place, growing_file, growing_folder
from croc_cli.reading import json_text
from croc_cli.run_dir import write_json
from croc_cli.sources.mix.lengths import keep_lengths
from croc_cli.sources.mix.recipe_mix import RECIPE_NAME
from croc_cli.sources.read.index import (
    IMAGES_FOLDER,
    INDEX_TYPES,
    LENGTHS_FOLDER,
    MIX_KIND,
    ROWS_NAME,
    MixFolder,
    order_hash,
    write_index,
)
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.manifest import MANIFEST_NAME
from croc_cli.sources.read.reader import JSON_SUFFIXES, TABLE_SUFFIXES
from croc_cli.sources.read.rows import IMAGE_RANGE
from croc_cli.sources.verify.checked_rows import CheckedData, CheckedRow
from croc_cli.sources.verify.findings import DEFECTS


def write_clean(data: CheckedData, bad: dict[int, str]) -> tuple[Path, Path]:
    """Write a clean copy beside a data set, and a JSONL of what it leaves out, and why.

    A mix becomes a mix (`NAME-clean`). Anything else becomes a JSONL in LLaVA's form (`NAME.clean.jsonl`) with ids that
    are text and without leading gpt turns; images that lie in the data itself become data URLs.

    Args:
        data: The data set; not changed.
        bad: Why each row that has an error has one, by its number.
    Returns:
        The copy, and the list of what it leaves out.

    Raises:
        UsageError: Something of the user's lies there, or they cannot be written.
    """
    clean, dropped = clean_places(data)
    try:
        if data.mix is not None:
            _clean_mix(data, data.mix, bad, clean=clean, dropped=dropped)
        else:
            _clean_rows(data, bad, clean=clean, dropped=dropped)
    except OSError as error:
        raise DataError(
            f"no clean copy of {data.path}: {clean} cannot be written: {error.strerror or error}",
            hint="copy or link the data into a folder that can be written to, and fix it there",
        ) from error
    return clean, dropped


def clean_places(data: CheckedData) -> tuple[Path, Path]:
    """Return where the clean copy of a data set goes, and the list of what it leaves out.

    Raises:
        UsageError: Something of the user's lies there.
    """
    if data.mix is not None:
        clean = data.mix.folder.with_name(f"{data.mix.folder.name}-clean")
        dropped = data.mix.folder.with_name(f"{data.mix.folder.name}.dropped.jsonl")
        check_place(clean, kind=MIX_KIND, later=(LENGTHS_FOLDER,))
    else:
        name = _own_name(data.path)
        clean, dropped = data.path.with_name(f"{name}.clean.jsonl"), data.path.with_name(f"{name}.dropped.jsonl")
        check_place(clean)
    check_place(dropped)
    return clean, dropped


def _own_name(path: Path) -> str:
    """Return how the copy's name begins: with the ending only where another file there has the same name before it."""
    endings = (*JSON_SUFFIXES, *TABLE_SUFFIXES, ".tar")
    others = [other for other in _beside(path) if other != path.name and Path(other).suffix.lower() in endings]
    if not any(Path(other).stem == (path.name if path.is_dir() else path.stem) for other in others):
        return path.stem
    return f"{path.name}.folder" if path.is_dir() else path.name


def _beside(path: Path) -> list[str]:
    try:
        return os.listdir(path.parent)
    except OSError:  # whether it can be written to is seen when it is
        return []


def _clean_rows(data: CheckedData, bad: dict[int, str], *, clean: Path, dropped: Path) -> None:
    with (
        growing_file(clean) as growing,
        growing_file(dropped) as left_out,
        growing.open("w", encoding="utf-8") as good_rows,
        left_out.open("w", encoding="utf-8") as bad_rows,
    ):
        for row in data.rows():
            if row.number in bad:
                bad_rows.write(_dropped(row.key, bad[row.number], row.row) + "\n")
            else:
                good_rows.write(json_text(_repaired(row)) + "\n")


def _clean_mix(data: CheckedData, mix: MixFolder, bad: dict[int, str], *, clean: Path, dropped: Path) -> None:
    with growing_file(dropped) as left_out, growing_folder(clean, kind=MIX_KIND, later=(LENGTHS_FOLDER,)) as growing:
        _fill_clean_mix(data, mix, bad, growing, clean=clean, left_out=left_out)


def _fill_clean_mix(
    data: CheckedData, mix: MixFolder, bad: dict[int, str], folder: Path, *, clean: Path, left_out: Path
) -> None:
    import numpy as np

    position = np.argsort(mix.index.offset, kind="stable")  # of each row of the file in the mix
    offsets = np.zeros(len(mix), dtype=np.uint64)
    keep = np.ones(len(mix), dtype=bool)
    reasons: list[Counter[str]] = [Counter() for _ in mix.manifest.sources]
    written = 0
    with (folder / ROWS_NAME).open("wb") as good_rows, left_out.open("w", encoding="utf-8") as bad_rows:
        for row in data.rows():
            place = int(position[row.number])
            if row.number in bad:
                keep[place] = False
                reasons[int(mix.index.source[place])][bad[row.number]] += 1
                bad_rows.write(_dropped(row.key, bad[row.number], row.row) + "\n")
                continue
            offsets[place] = written
            raw = mix.read(place)
            good_rows.write(raw + b"\n")
            written += len(raw) + 1
    arrays: dict[str, Any] = {name: getattr(mix.index, name)[keep] for name in INDEX_TYPES}
    arrays["offset"] = offsets[keep]
    write_index(folder, arrays)
    _write_manifest(folder, clean, mix, arrays, reasons, written)
    keep_lengths(mix.folder, folder, keep)
    if (mix.folder / RECIPE_NAME).is_file():
        shutil.copyfile(mix.folder / RECIPE_NAME, folder / RECIPE_NAME)


def _write_manifest(
    folder: Path, clean: Path, mix: MixFolder, arrays: dict[str, Any], reasons: list["Counter[str]"], size: int
) -> None:
    old = mix.manifest
    sources = []
    for number, source in enumerate(old.sources):
        gone = reasons[number]
        counts = dict(sorted((Counter(source.dropped) + gone).items()))
        kept = replace(source, rows_out=source.rows_out - gone.total(), dropped=counts)
        sources.append(kept)
    if (mix.folder / IMAGES_FOLDER).is_dir():  # the copy's rows still name the images of the mix that it came from
        sources = [
            replace(source, image_root=os.path.abspath(mix.image_roots[number]))
            for number, source in enumerate(sources)
        ]
    manifest = replace(
        old,
        name=f"{old.name}-clean",
        sources=tuple(sources),
        rows=len(arrays["offset"]),
        image_rows=int((arrays["images"] > 0).sum()),
        text_rows=int((arrays["images"] == 0).sum()),
        bytes=size,
        order_sha256=order_hash([source.name for source in old.sources], arrays),
        data_root=os.path.relpath(mix.data_root, clean),
    )
    write_json(folder / MANIFEST_NAME, manifest.as_dict())


def _dropped(key: str, code: str, row: Any) -> str:
    return json_text({"key": key, "reason": code, "says": DEFECTS[code].text, "row": row})


def _repaired(checked: CheckedRow) -> dict[str, Any]:
    """Return a row with a text id and without a leading gpt turn."""
    row: dict[str, Any] = dict(checked.row)
    turns = row["conversations"]
    if checked.image_range is not None:
        row[IMAGE_RANGE] = list(checked.image_range)
    if checked.contents:
        names = row["image"] if isinstance(row["image"], list) else [row["image"]]
        row["image"] = [
            name if content is None else f"data:image;base64,{base64.b64encode(content).decode()}"
            for name, content in zip(names, checked.contents, strict=True)
        ]
    return {**row, "id": str(row.get("id", "")), "conversations": turns[turns[0]["from"] == "gpt" :]}
