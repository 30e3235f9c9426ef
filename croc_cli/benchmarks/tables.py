"""Reads VLMEvalKit's and MMBench's TSV tables, and lists that a cell holds as Python text."""

from __future__ import annotations

import ast
import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.decode import BenchmarkDataError, read_text, shown, take
from croc_cli.benchmarks.files import Picture

_MISSING = frozenset(
    {"", "nan", "NaN", "-nan", "-NaN", "None", "NA", "<NA>", "N/A", "n/a", "null", "NULL", "#NA", "#N/A", "#N/A N/A"}
    | {"1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"}
)
"""Cells that pandas, which the references read the files with, takes for missing."""
_LONGEST_REFERENCE = 64
"""Characters of a picture's cell up to which VLMEvalKit takes it for the index of the row that holds the picture."""


def is_missing(cell: str | None) -> bool:
    """Tell whether a cell of a table is empty, or reads so to pandas."""
    return cell is None or cell in _MISSING


def read_tsv(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (place for messages, row) of every row of a TSV.

    Raises:
        BenchmarkDataError: It cannot be read, or is not a TSV.
    """
    csv.field_size_limit(2**31 - 1)  # a cell holds a whole picture
    table = csv.DictReader(io.StringIO(read_text(file), newline=""), delimiter="\t")
    try:
        return [(f"{file}, row {number}", row) for number, row in enumerate(table, start=1)]
    except csv.Error as error:
        raise BenchmarkDataError(f"{file}, line {table.line_num}: {error}", hint="fetch it again") from error


def tsv_pictures(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[Picture, ...]]:
    """Return the pictures of each row of VLMEvalKit's TSV, in their order.

    A cell is one picture in base64, a list of them as Python text, or the index of another row that has the picture.

    Raises:
        BenchmarkDataError: A cell is none of these; says which row's.
    """
    cells = {str(take(row, "index", where)): take(row, "image", where) for where, row in rows}
    found = []
    for where, row in rows:
        index = str(row["index"])
        cell = cells[index]
        if not is_missing(cell) and len(str(cell)) <= _LONGEST_REFERENCE and str(cell) in cells:
            index, cell = str(cell), cells[str(cell)]
        if is_missing(cell):
            raise BenchmarkDataError(f"{where}: no picture", hint="fetch the file again")
        contents = texts_of(cell, f"{where}: image")
        names = [f"picture {number} of row {index}" for number in range(1, len(contents) + 1)]
        if len(contents) == 1:
            names = [f"picture of row {index}"]
        found.append(tuple(map(Picture.from_base64, names, contents)))
    return found


def texts_of(cell: Any, where: str) -> list[str]:
    """Return the texts of a list, of a list that is written as Python text, or the one text that a cell is.

    Raises:
        BenchmarkDataError: It holds something else than texts and numbers.
    """
    values = cell
    if isinstance(cell, str):
        bare = cell.strip()
        values = [cell]
        if bare.startswith("[") and bare.endswith("]"):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about backslashes, which formulas are full of
                    values = ast.literal_eval(bare)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                values = [cell]  # a text in brackets
    if not isinstance(values, list) or not all(isinstance(one, str | int | float) for one in values):
        raise BenchmarkDataError(f"{where} is {shown(cell)}, expected a list of texts")
    return [str(one) for one in values]
