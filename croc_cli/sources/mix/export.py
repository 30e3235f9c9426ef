"""Writes a mix in forms that other programs read: LLaVA JSON, JSONL, parquet."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from croc_cli.errors import UsageError
from croc_cli.files import open_file, tar_of
from croc_cli.place import growing_file, growing_folder
from croc_cli.reading import json_text
from croc_cli.sources.read.index import IMAGE_RANGE, MixFolder
from croc_cli.sources.read.rows import image_ranges
from croc_cli.sources.read.scan import REPORT_EVERY, Progress

FORMS = (".json", ".jsonl", ".parquet")
EXPORTS_FOLDER = "exports"
"""Folder below the data root for the images of exports, each in a folder with the name of its file."""
_BATCH_ROWS = 5000
_PLACE_LETTERS = 8
_FOLDER_ROWS = 10_000
"""Rows of a source whose images share a folder."""


def export_mix(folder: Path, out: Path, *, progress: Progress | None = None) -> int:
    """Write a mix's rows in its order, in the form that the file's ending says, and return how many.

    Ids are text, leading gpt turns are gone, and image paths start from the data root, so that LLaVA's `image_folder`
    is that one folder. Images in tars, those of tables included, are written out to files: see `exported_images`.

    Args:
        folder: Of the mix.
        out: A .json, .jsonl or .parquet file; one that an earlier export made is replaced once the new one is complete.
        progress: Told how far it is.

    Raises:
        UsageError: A file that croc did not make lies at `out`; unknown format, the folder holds no mix, or an
            image cannot be taken out of its tar.
    """
    if out.suffix not in FORMS:
        raise UsageError(f"{out}: unknown format", hint=f"name a file that ends in {', '.join(FORMS)}")
    mix = MixFolder(folder)
    images = exported_images(mix, out)
    try:
        with (
            growing_folder(images, kind="export") if images is not None else nullcontext() as growing_images,
            growing_file(out) as growing,
        ):
            rows = _rows(mix, progress, images, growing_images)
            if out.suffix == ".parquet":
                _write_parquet(rows, growing)
            else:
                _write_json(rows, growing, as_list=out.suffix == ".json")
    except OSError as error:
        raise UsageError(f"{error.filename or out}: {error.strerror or error}") from error
    return len(mix)


def exported_images(mix: MixFolder, out: Path) -> Path | None:
    """Return the folder for images that other programs could not open where they are; None where there are none.

    Its name has a part of the hash of where the file lies: exports of one name in two places keep their own images.
    It holds `SOURCE/00000/000000003.png`: numbers of the row in its source, 10,000 rows a folder.
    """
    sources = mix.index.source[mix.index.images > 0]
    for number in sorted(set(sources.tolist())):  # a source's images lie in tars, or none does
        first = int((mix.index.images > 0).nonzero()[0][sources == number][0])
        if IMAGE_RANGE in mix.row(first):
            place = sha256(os.fsencode(out.absolute())).hexdigest()[:_PLACE_LETTERS]
            return mix.data_root / EXPORTS_FOLDER / f"{out.stem}-{place}"
    return None


def _rows(
    mix: MixFolder, progress: Progress | None, images: Path | None, growing: Path | None
) -> Iterator[dict[str, Any]]:
    """Yield the mix's rows as they are exported, and write the images that lie in tars.

    Args:
        mix: The mix.
        progress: Told how far it is.
        images: Folder of those images in the end.
        growing: Where they are written until then.
    """
    prefixes = []
    for root in mix.image_roots:
        prefix = os.path.relpath(root, mix.data_root)
        prefixes.append("" if prefix == "." else f"{root}/" if prefix.startswith("..") else f"{prefix}/")
    for position in range(len(mix)):
        if progress is not None and position % REPORT_EVERY == 0:
            progress("writing", position, len(mix))
        row = mix.row(position)
        prefix = prefixes[int(mix.index.source[position])]
        image = row.get("image")
        if image is not None and IMAGE_RANGE in row and images is not None and growing is not None:
            names = _take_out(mix, position, row, growing)
            paths = [(images / name).relative_to(mix.data_root).as_posix() for name in names]
            row["image"] = paths if isinstance(image, list) else paths[0]
            del row[IMAGE_RANGE]
        elif image is not None:
            row["image"] = [prefix + name for name in image] if isinstance(image, list) else prefix + image
        turns = row["conversations"]
        row["conversations"] = turns[turns[0]["from"] == "gpt" :]
        row["id"] = str(row.get("id", mix.key(position)))
        yield row


def _take_out(mix: MixFolder, position: int, row: dict[str, Any], folder: Path) -> list[str]:
    """Write a row's images to files and return their names, from the folder."""
    number = int(mix.index.source[position])
    row_number = int(mix.index.row[position])
    stem = f"{mix.manifest.sources[number].name}/{row_number // _FOLDER_ROWS:05d}/{row_number:09d}"
    names = []
    images = row["image"] if isinstance(row["image"], list) else [row["image"]]
    for count, (name, span) in enumerate(zip(images, image_ranges(row) or (), strict=True)):
        names.append(f"{stem}{f'-{count}' if count else ''}{PurePosixPath(name).suffix}")
        (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        (folder / names[-1]).write_bytes(_member(f"{mix.image_roots[number]}/{name}", *span))
    return names


def _member(name: str, offset: int, length: int) -> bytes:
    """Return the bytes of an image in a tar."""
    tar = tar_of(name)
    with open_file(tar) as file:
        file.seek(offset)
        content = file.read(length)
    if len(content) < length:
        raise UsageError(f"{tar} ends before {name}", hint="make the mix again: croc data mix with its recipe")
    return content


def _write_json(rows: Iterator[dict[str, Any]], file: Path, *, as_list: bool) -> None:
    with file.open("w", encoding="utf-8") as stream:
        between = ",\n" if as_list else "\n"
        stream.write("[\n" if as_list else "")
        for number, row in enumerate(rows):
            stream.write((between if number else "") + json_text(row))
        stream.write("\n]\n" if as_list else "\n")


def _check_text(row: dict[str, Any]) -> None:
    """Raise UsageError where a row's id or images hold half a surrogate pair, as names that are not UTF-8 do."""
    image = row.get("image")
    for text in (row["id"], *([image] if isinstance(image, str) else image or [])):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError(
                f"row {row['id']!a}: {text!a} is not UTF-8, which parquet needs",
                hint="a file that ends in .jsonl holds such names",
            )


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
            _check_text(row)
            batch.append({**row, "image": [image] if isinstance(image, str) else image or []})
            if len(batch) == _BATCH_ROWS:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
