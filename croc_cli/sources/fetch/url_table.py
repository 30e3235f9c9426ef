"""Reads a table of image URLs: which image, by a key of ours, is where; JSON, JSONL, CSV, TSV or Parquet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from croc_cli.errors import UsageError
from croc_cli.reading import read_json_file, read_json_lines
from croc_cli.recipe.issues import did_you_mean
from croc_cli.sources.read.content import check_file
from croc_cli.sources.read.csv_rows import csv_rows
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.reader import suffix_of
from croc_cli.sources.read.rows import BadCell
from croc_cli.sources.read.tables import parquet_rows

URL_COLUMNS = ("url", "URL", "link", "image_url", "imageURL")
OBJECT_KEY = "@key"
_SUFFIX = ".jpg"
_PER_FOLDER = 10_000


@dataclass(frozen=True)
class UrlRow:
    """One image of a table.

    Args:
        key: Path of the image below its folder.
        url: Where it is to be had.
        row: All columns of its row.
    """

    key: str
    url: str
    row: Mapping[str, Any]


def read_url_table(path: Path, *, url_column: str | None, key_column: str | None) -> Iterator[UrlRow]:
    """Yield the images of a table; rows without URL are left out.

    Args:
        path: File, or a folder of Parquet files.
        url_column: None takes the first of `URL_COLUMNS` that is there.
        key_column: Names the image; "@key" is the key of a JSON object of objects; None numbers the rows.

    Raises:
        UsageError: There is no such file or column, or a key leads outside its folder.
        FetchError: The file is a web page or a git-lfs pointer.
    """
    if not path.exists():
        raise UsageError(f"the URL table {path} does not exist", hint="fetch the source that brings it first")
    found_column = url_column
    for number, row in enumerate(_rows(path)):
        found_column = found_column or _url_column(row, path)
        if found_column not in row:
            raise UsageError(
                f"{path}, row {number}: no column {found_column!r}", hint=did_you_mean(found_column, map(str, row))
            )
        if key_column is not None and key_column not in row:
            raise UsageError(
                f"{path}, row {number}: no column {key_column!r}", hint=did_you_mean(key_column, map(str, row))
            )
        url = row[found_column]
        if not isinstance(url, str) or not url.strip():
            continue
        key = str(row[key_column]) if key_column else f"{number // _PER_FOLDER:05d}/{number:09d}"
        yield UrlRow(_checked_key(key, path, number), url.strip(), row)


def _url_column(row: Mapping[str, Any], path: Path) -> str:
    found = next((name for name in URL_COLUMNS if name in row), None)
    if found is None:
        columns = ", ".join(map(str, row))
        raise UsageError(f"{path} has no column of URLs, only {columns}", hint="name it with url_column")
    return found


def _checked_key(key: str, path: Path, number: int) -> str:
    parts = PurePosixPath(key).parts
    if not key or key.startswith("/") or ".." in parts or "\\" in key or "\0" in key:
        raise UsageError(f"{path}, row {number}: the key {key!r} leads outside the image folder")
    return key if PurePosixPath(key).suffix else f"{key}{_SUFFIX}"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if not files:
            raise UsageError(f"{path} holds no Parquet file")
        for one in files:
            yield from _rows(one)
        return
    check_file(path)
    suffix = suffix_of(path)
    if suffix in (".parquet", ".csv", ".tsv"):
        records = csv_rows(path) if suffix != ".parquet" else parquet_rows(path)
        for number, record in enumerate(records):
            if isinstance(record, BadCell):
                raise DataError(f"{path}, row {number}: {record.defect[1]}", hint="fetch it again, or fix the row")
            yield record
    elif suffix in (".json", ".jsonl"):
        yield from json_rows(path)
    else:
        raise UsageError(f"{path} is not a table of URLs", hint="JSON, JSONL, CSV, TSV and Parquet are read")


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON list, a JSON object of objects (their key as "@key"), or JSONL.

    Raises:
        UsageError: It is not JSON, or a row is not an object; names file, line and column.
    """
    if suffix_of(path) == ".jsonl":
        content: Any = (row for _, row in read_json_lines(path))
    else:
        content = read_json_file(path, hint="fetch it again, or name another file")
    if isinstance(content, dict):
        yield from ({OBJECT_KEY: key, **row} for key, row in content.items() if isinstance(row, dict))
        return
    for number, row in enumerate(content):
        if not isinstance(row, dict):
            raise UsageError(f"{path}, row {number}: {row!r:.40} is not an object", hint="fetch it again")
        yield row
