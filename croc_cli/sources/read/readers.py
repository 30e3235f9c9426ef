"""Chooses the reader for a source's form; all give rows in LLaVA's form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from croc_cli.recipe.paths import PATHS_START
from croc_cli.sources.read.json_rows import DataError, check_file_kind, json_rows
from croc_cli.sources.read.reader import JSON_SUFFIXES, TABLE_SUFFIXES, Reader, SourceRow
from croc_cli.sources.read.spec import SourceSpec

CAPTION_TABLES = ("metadata", "captions", "labels", "annotations")
"""Names, without ending, of the table beside a folder's images; `metadata` is that of the datasets library."""


class LlavaReader(Reader):
    """LLaVA's own form: a JSON list or JSONL of conversations.

    Args:
        path: The file.
        image_root: Folder that the rows' paths start from; left out: the file's own folder.
    """

    in_place = True

    def __init__(self, path: Path, image_root: Path | None = None) -> None:
        check_file_kind(path)
        self.files = (path,)
        self.image_root = image_root if image_root is not None else path.parent

    def rows(self, *, with_images: bool = False) -> Iterator[SourceRow]:
        """Yield every row with the bytes that it takes."""
        del with_images
        for index, value, start, end, line in json_rows(self.files[0]):
            if isinstance(value, ValueError):
                yield SourceRow(index, None, start, end, ("json-broken", f"line {line}: {value}"))
            else:
                yield SourceRow(index, value, start, end)


def open_source(spec: SourceSpec) -> Reader:
    """Return the reader of a source.

    Raises:
        DataError: There is nothing at its path, or nothing that is known.
    """
    path = spec.path
    if not path.exists():
        hint = "`croc data fetch` gets known sources" if spec.catalog else PATHS_START
        raise DataError(f"source {spec.name}: {path} does not exist", hint=hint)
    form = spec.format if spec.format != "auto" else _form_of(path, spec)
    if form == "webdataset":
        from croc_cli.sources.read.tars import TarReader

        return TarReader(path, spec.columns)
    if form == "table":
        from croc_cli.sources.read.tables import TableReader

        return TableReader(*_table(path), columns=spec.columns, image_root=spec.image_root, name=spec.name)
    if path.is_dir():
        raise DataError(f"source {spec.name}: {path} is a folder, and format llava takes a file")
    return LlavaReader(path, spec.image_root)


def _form_of(path: Path, spec: SourceSpec) -> str:
    """Return the form of what lies at a path."""
    if spec.columns:
        return "webdataset" if _tars(path) else "table"
    if path.is_dir():
        if _tars(path):
            return "webdataset"
        return "table"
    if path.suffix == ".tar":
        return "webdataset"
    if path.suffix in TABLE_SUFFIXES:
        return "table"
    if path.suffix not in JSON_SUFFIXES:
        check_file_kind(path)
    for row in json_rows(path):
        holds_columns = isinstance(row.value, dict) and "conversations" not in row.value
        return "table" if holds_columns and _known_columns(row.value) else "llava"
    return "llava"


def _known_columns(row: dict[str, Any]) -> bool:
    from croc_cli.sources.read.columns import guess_columns

    return bool(guess_columns(list(row)))


def _tars(path: Path) -> bool:
    return path.suffix == ".tar" if path.is_file() else any(path.glob("*.tar"))


def _table(path: Path) -> tuple[tuple[Path, ...], Path]:
    """Return a table's files in order, and the folder that its image paths start from unless told otherwise."""
    if path.is_file():
        return (path,), path.parent
    for suffix in (*TABLE_SUFFIXES, *JSON_SUFFIXES):
        for stem in CAPTION_TABLES:
            if (path / f"{stem}{suffix}").is_file():
                return (path / f"{stem}{suffix}",), path
    for suffix in TABLE_SUFFIXES:
        found = sorted([*path.glob(f"*{suffix}"), *path.glob(f"data/*{suffix}"), *path.glob(f"train/*{suffix}")])
        train = [file for file in found if "train" in file.name or file.parent.name == "train"]
        if found:
            return tuple(train or found), path
    raise DataError(
        f"{path} holds no data that is known: no tar, parquet, arrow, csv, tsv, and no table of captions",
        hint=f"name the file itself, or put the captions of its images into {path / 'metadata.csv'}",
    )
