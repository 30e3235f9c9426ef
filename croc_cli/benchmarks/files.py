"""Reads the parquet tables of hub data sets, and pictures, which are opened when they are needed."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.errors import first_line
from croc_cli.files import check_regular, read_bytes
from croc_cli.hub_clone import CloneError, choose_files, clone_files
from croc_cli.pictures import read_picture

if TYPE_CHECKING:
    from PIL import Image
    from pyarrow import ChunkedArray


@dataclass(frozen=True)
class ParquetCell:
    """A picture's place in a parquet file.

    Attributes:
        file: The file.
        row_group: Which of its row groups.
        row: Within the row group.
        column: The picture's column: bytes, or the struct of bytes and path that the datasets library writes, or a
            list of those.
        frame: Of a list, which one; None takes the middle one, as LLaVA does with the frames of a video.
    """

    file: Path
    row_group: int
    row: int
    column: str
    frame: int | None = None

    def read(self) -> bytes:
        """Return the picture file's content."""
        cell = _column(self.file, self.row_group, self.column)[self.row].as_py()
        if isinstance(cell, list):
            cell = cell[len(cell) // 2 if self.frame is None else self.frame] if cell else None
        return bytes((cell.get("bytes") if isinstance(cell, Mapping) else cell) or b"")


@lru_cache(maxsize=8)
def _column(file: Path, row_group: int, column: str) -> ChunkedArray:
    from pyarrow import parquet

    return parquet.ParquetFile(file).read_row_group(row_group, columns=[column]).column(column)


@dataclass(frozen=True)
class Picture:
    """One picture of a record, opened only when it is needed.

    Attributes:
        name: For messages; the file name, or the place in a table.
        path: The file, or None.
        data: The file's bytes, or None.
        cell: Its place in a table, or None.
        draw: Draws it, or None.
        is_blank: It shows nothing; a model gets the mean colour of its pictures.
    """

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    cell: ParquetCell | None = None
    draw: Callable[[], Image.Image] | None = field(default=None, repr=False)
    is_blank: bool = False

    @classmethod
    def from_base64(cls, name: str, text: str) -> Picture:
        """Return the picture that a TSV cell holds.

        Raises:
            BenchmarkDataError: The cell is not base64.
        """
        try:
            return cls(name, data=base64.b64decode(text))
        except (binascii.Error, ValueError, TypeError) as error:
            raise BenchmarkDataError(f"{name}: not base64", hint="fetch the file again") from error

    def read(self) -> bytes:
        """Return the picture file's content; nothing where a table's cell is empty.

        Raises:
            OSError: The file is missing.
        """
        if self.path is not None:
            return read_bytes(self.path)
        if self.draw is not None:
            stream = io.BytesIO()
            self.draw().save(stream, format="PNG")
            return stream.getvalue()
        return self.cell.read() if self.cell is not None else self.data or b""

    def open(self) -> Image.Image:
        """Open the picture.

        Raises:
            OSError: It is missing or no picture.
        """
        return read_picture(io.BytesIO(self.read()))


def read_parquet(
    folder: Path, *splits: str, pictures: Sequence[str] = ("image",), config: str | None = None
) -> list[dict[str, Any]] | None:
    """Return the rows of one split of a hub data set, in order of the files' names; None where no file is there.

    A column of `pictures` becomes a `Picture` that is read when it is opened, or None where the cell is empty.

    Args:
        folder: A clone of the data set, or the files of one configuration.
        splits: The split, under all names that it goes by; see `hub_clone.choose_files`.
        pictures: The columns of pictures, those of them that are there.
        config: The configuration, where the data set has several.

    Raises:
        BenchmarkDataError: There are files, and none of that split or configuration; or a file is not a parquet file.
    """
    files = clone_files(folder, ".parquet")
    if not files:
        return None
    try:
        chosen = choose_files(folder, files, splits=splits, config=config)
    except CloneError as error:
        raise BenchmarkDataError(error.message, hint=error.hint) from error
    rows: list[dict[str, Any]] = []
    for file in chosen:
        rows += _rows(file, pictures, label=f"{config}/{file.name}" if config else file.name)
    return rows


def _rows(file: Path, pictures: Sequence[str], *, label: str) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        check_regular(file)
        table = parquet.ParquetFile(file)
        columns = [name for name in pictures if name in table.schema_arrow.names]
        names = [name for name in table.schema_arrow.names if name not in columns]
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, columns=names).to_pylist()
            for column in columns:
                filled = table.read_row_group(group, columns=[column]).column(0).is_valid().to_pylist()
                for index, (row, is_there) in enumerate(zip(rows, filled, strict=True)):
                    # Pictures are told apart by their names.
                    name = f"{label}, row group {group}, row {index}" + (f", {column}" if len(columns) > 1 else "")
                    row[column] = Picture(name, cell=ParquetCell(file, group, index, column)) if is_there else None
            yield from rows
    except (ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BenchmarkDataError(f"{file}: not a readable parquet file: {reason}", hint="fetch it again") from error


def text_of(cell: Any) -> str:
    """Return a cell's text, empty where the cell is."""
    return "" if cell is None else str(cell)
