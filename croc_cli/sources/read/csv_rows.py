"""Reads csv and tsv line by line, so that no stray quote swallows rows and no cell is lost silently."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from croc_cli.reading import TextError, decode_text
from croc_cli.sources.read.json_rows import DataError, unreadable
from croc_cli.sources.read.reader import suffix_of
from croc_cli.sources.read.rows import BadCell
from croc_cli.words import counted

SWALLOWED_LINES = 3
"""Lines inside one cell that each look like a row of the table: so many are rows that a stray quote swallowed."""


class _Record(NamedTuple):
    line: int
    cells: list[str]


def csv_columns(file: Path) -> list[str]:
    """Return the columns that a table's first line names.

    Raises:
        DataError: It is not text in UTF-8, or names a column twice.
    """
    for record in _records(file):
        names = record.cells
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"{file}, line 1: two columns are named {repeated!r}", hint="rename one of them")
        return names
    return []


def csv_rows(file: Path) -> Iterator[dict[str, Any] | BadCell]:
    """Yield each row by column; an empty cell is None. A row with more or fewer cells than columns is a BadCell.

    Raises:
        DataError: It cannot be read as a table; names the line.
    """
    names: list[str] | None = None
    for line, cells in _records(file):
        if names is None:
            names = cells
        elif _is_header(cells, names):
            yield BadCell("header-repeated", f"line {line}")
        elif len(cells) == len(names):
            yield {name: cell if cell else None for name, cell in zip(names, cells, strict=True)}
        elif cells:
            yield BadCell("cells-not-columns", f"line {line}: {len(cells)} cells, {counted(len(names), 'column')}")


def _is_header(cells: list[str], names: list[str]) -> bool:
    """Tell whether a line names the columns again, as where tables were joined; a table of one column may say so."""
    return len(names) > 1 and [cells[0].removeprefix("\ufeff"), *cells[1:]] == names


def _records(file: Path) -> Iterator[_Record]:
    """Yield the cells of each row, the first line's too."""
    if suffix_of(file) == ".tsv" and _is_plain(file):
        for number, line in _lines(file):
            if line:
                yield _Record(number, [_unquoted(cell) for cell in line.split("\t")])
        return
    delimiter = "\t" if suffix_of(file) == ".tsv" else ","
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((f"{line}\n" for _, line in _lines(file)), delimiter=delimiter, strict=True)
    start, width = 1, None
    try:
        for cells in reader:
            width = len(cells) if width is None else width
            if any(_swallows(cell, delimiter, width) for cell in cells):
                raise DataError(
                    f"{file}, line {start}: a quote opens a cell that ends only at line {reader.line_num}",
                    hint="double the quotes that belong to a text, and put the cell into quotes",
                )
            if cells:
                yield _Record(start, cells)
            start = reader.line_num + 1
    except csv.Error as error:
        hint = "double the quotes that belong to a text, and put the cell into quotes"
        if "new-line" in str(error):  # line ends of a lone carriage return, as old Macs have them
            raise DataError(
                f"{file}, line {start}: a carriage return without a line feed",
                hint=f"`tr '\\r' '\\n' < {file} > NEW` writes line feeds",
            ) from error
        raise unreadable(file, error, place=f"line {start}", hint=hint) from error


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text without its end) of each line."""
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, decode_text(line, first=number).rstrip("\r\n")
    except TextError as error:
        raise unreadable(file, error) from error
    except OSError as error:
        raise unreadable(file, error) from error


def _is_plain(file: Path) -> bool:
    """Tell whether every line of a tsv is a row: then quotes are letters, as in lists of captions they mostly are."""
    tabs: int | None = None
    for _, line in _lines(file):
        if line:
            tabs = line.count("\t") if tabs is None else tabs
            if line.count("\t") != tabs:
                return False
    return True


def _unquoted(cell: str) -> str:
    """Return a cell without the quotes that a writer put around it for quotes inside, which it doubled."""
    inside = cell[1:-1]
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"' or inside.replace('""', "").count('"'):
        return cell
    return inside.replace('""', '"')


def _swallows(cell: str, delimiter: str, width: int) -> bool:
    """Tell whether a cell holds lines that look like rows of the table."""
    if "\n" not in cell:
        return False
    lines = cell.split("\n")[1:-1]
    return len(lines) >= SWALLOWED_LINES and all(line.count(delimiter) == width - 1 > 0 for line in lines)
