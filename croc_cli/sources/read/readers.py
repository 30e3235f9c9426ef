"""Finds the reader for what lies at a path."""

from pathlib import Path

from croc_cli.hub_clone import CloneError, choose_files, clone_files
from croc_cli.recipe.paths import PATHS_START
from croc_cli.sources.read.json_reader import JsonReader
from croc_cli.sources.read.json_rows import DataError, check_file_kind
from croc_cli.sources.read.reader import JSON_SUFFIXES, TABLE_SUFFIXES, Reader, suffix_of
from croc_cli.sources.read.spec import SourceSpec
from croc_cli.sources.read.tables import TableReader
from croc_cli.sources.read.tars import TarReader

CAPTION_TABLES = ("metadata", "captions", "labels", "annotations")
"""Names, without ending, of the table beside a folder's images; `metadata` is that of the datasets library."""


def open_source(spec: SourceSpec) -> Reader:
    """Return the reader of a source.

    Raises:
        DataError: There is nothing at its path, or nothing that is known.
    """
    path = spec.path
    if not path.exists():
        hint = f"`croc data fetch {spec.catalog}` gets it" if spec.catalog else PATHS_START
        raise DataError(f"source {spec.name}: {path} does not exist", hint=hint)
    if not path.is_file() and not path.is_dir():
        raise DataError(f"source {spec.name}: {path} is neither a file nor a folder", hint="write it to a file first")
    form = spec.format if spec.format != "auto" else _form_of(path)
    if form == "webdataset":
        return TarReader(path, spec.columns)
    if form == "llava" and path.is_dir():
        raise DataError(f"source {spec.name}: {path} is a folder, and format llava takes a file")
    files, folder = _table(path) if path.is_dir() else ((path,), path.parent)
    image_root = spec.image_root if spec.image_root is not None else folder
    if form == "llava" or suffix_of(files[0]) not in TABLE_SUFFIXES:
        return JsonReader(files[0], image_root, columns=spec.columns, name=spec.name)
    return TableReader(files, image_root, columns=spec.columns, name=spec.name)


def _form_of(path: Path) -> str:
    """Return the form of what lies at a path: tars, or a file or table that its ending tells."""
    if path.is_dir():
        return "webdataset" if _with_suffix(path, ".tar") else "table"
    if suffix_of(path) not in (*JSON_SUFFIXES, *TABLE_SUFFIXES, ".tar"):
        check_file_kind(path)
    return "webdataset" if suffix_of(path) == ".tar" else "table"


def _table(folder: Path) -> tuple[tuple[Path, ...], Path]:
    """Return the files of a folder's table in order, and the folder that its image paths start from."""
    named = {file.name.lower(): file for file in _files(folder)}
    for suffix in (*TABLE_SUFFIXES, *JSON_SUFFIXES):
        for stem in CAPTION_TABLES:
            if (file := named.get(f"{stem}{suffix}")) is not None:
                return (file,), folder
    files = clone_files(folder, *TABLE_SUFFIXES)
    for suffix in TABLE_SUFFIXES:
        if found := [file for file in files if suffix_of(file.path) == suffix]:
            try:
                return tuple(choose_files(folder, found, splits=("train",))), folder
            except CloneError as error:
                raise DataError(error.message, hint=error.hint) from error
    raise DataError(
        f"{folder} holds no data that is known: no tar, parquet, arrow, csv, tsv, and no table of captions",
        hint=f"name the file itself, or put the captions of its images into {folder / 'metadata.csv'}",
    )


def _with_suffix(folder: Path, suffix: str) -> list[Path]:
    return [file for file in _files(folder) if suffix_of(file) == suffix]


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
