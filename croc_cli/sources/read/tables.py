"""Reads tables whose columns hold question, answer and image: parquet, arrow, csv, tsv, JSON."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from croc_cli.sources.read.columns import Columns, convert, guess_columns
from croc_cli.sources.read.json_rows import DataError, check_file_kind, json_rows
from croc_cli.sources.read.reader import JSON_SUFFIXES, Reader, SourceRow

BATCH_ROWS = 512
"""Rows of a parquet file in memory at once; an image each makes them large."""


class TableReader(Reader):
    """A table in one file or several.

    Args:
        files: In order; all of one kind.
        folder: Folder that image paths start from, unless `image_root` says otherwise.
        columns: Arguments of `Columns`; empty to go by well-known names.
        image_root: Folder that image paths start from, as the recipe says.
        name: Of the source, for messages.
    """

    def __init__(
        self, files: tuple[Path, ...], folder: Path, *, columns: dict[str, Any], image_root: Path | None, name: str
    ) -> None:
        self.files = files
        self.name = name
        self.image_root = image_root if image_root is not None else folder
        for file in files:
            if file.suffix in (".csv", ".tsv", *JSON_SUFFIXES):
                check_file_kind(file)
        names = self._column_names()
        known = columns or guess_columns(names)
        if not known:
            raise DataError(
                f"{files[0]}: columns {', '.join(names)} do not say which is the question and which the answer",
                hint="name them: columns: {human: [question], gpt: [answer], image: file_name}",
            )
        self.columns = Columns(**known)
        self._check_columns(names)
        self.embeds_images = self._embeds_images()

    def rows(self, *, with_images: bool = False) -> Iterator[SourceRow]:
        """Yield every record as a row."""
        for index, record in enumerate(self._records(with_images=with_images)):
            if isinstance(record, ValueError):
                yield SourceRow(index, None, defect=("json-broken", str(record)))
                continue
            done = convert(record, self.columns, row_id=f"{self.name}-{index}", with_image=with_images)
            yield SourceRow(index, done.row, defect=done.defect, image=done.image)

    def _check_columns(self, names: list[str]) -> None:
        wanted = self.columns
        missing = [name for name in wanted.names() if name not in names and name not in wanted.gpt]
        if wanted.gpt and not any(name in names or name.split(".")[0] in names for name in wanted.gpt):
            missing += wanted.gpt
        # A text-only row may well lack the columns of JSON rows; only what no row could have is wrong.
        if missing and self.files[0].suffix not in JSON_SUFFIXES:
            raise DataError(f"{self.files[0]}: no column {', '.join(missing)}", hint=f"it has {', '.join(names)}")
        if missing and not set(wanted.names()) & set(names):
            raise DataError(f"{self.files[0]}: no key {', '.join(missing)}", hint=f"its rows have {', '.join(names)}")

    def _column_names(self) -> list[str]:
        file = self.files[0]
        if file.suffix in (".parquet", ".arrow"):
            return list(_schema(file).names)
        if file.suffix in (".csv", ".tsv"):
            with file.open(encoding="utf-8-sig", newline="") as stream:
                return next(csv.reader(stream, delimiter=_delimiter(file)), [])
        for row in json_rows(file):
            if isinstance(row.value, dict):
                return list(row.value)
        raise DataError(f"{file}: no rows")

    def _embeds_images(self) -> bool:
        file, image = self.files[0], self.columns.image
        if image is None or file.suffix not in (".parquet", ".arrow"):
            return False
        kind = _schema(file).field(image.split(".")[0]).type
        return "binary" in str(kind)

    def _records(self, *, with_images: bool) -> Iterator[Any]:
        for file in self.files:
            if file.suffix == ".parquet":
                yield from self._arrow_records(_parquet_batches(file))
            elif file.suffix == ".arrow":
                yield from self._arrow_records(_arrow_batches(file))
            elif file.suffix in (".csv", ".tsv"):
                yield from _csv_records(file)
            else:
                yield from (row.value for row in json_rows(file))
        del with_images

    def _arrow_records(self, batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            kept = [name for name in batch.schema.names if name in {*self.columns.names(), "id"}]
            yield from batch.select(kept).to_pylist()


def _schema(file: Path) -> Any:
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        if file.suffix == ".parquet":
            return parquet.read_schema(file)
        with pyarrow.memory_map(str(file)) as source:
            return ipc.open_stream(source).schema
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise _broken(file, error) from error


def _parquet_batches(file: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            yield from table.iter_batches(batch_size=BATCH_ROWS)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise _broken(file, error) from error


def _arrow_batches(file: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import ipc

    try:
        with pyarrow.memory_map(str(file)) as source:
            yield from ipc.open_stream(source)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise _broken(file, error) from error


def _csv_records(file: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        try:
            yield from csv.DictReader(stream, delimiter=_delimiter(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise _broken(file, error) from error


def _delimiter(file: Path) -> str:
    return "\t" if file.suffix == ".tsv" else ","


def _broken(file: Path, error: Exception) -> DataError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{file}: cannot be read: {first}", hint="download it again")
