"""Reads tables whose columns hold question, answer and image: parquet, arrow, csv, tsv."""

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from croc_cli.errors import first_line
from croc_cli.sources.read.columns import Columns, convert, guess_columns
from croc_cli.sources.read.csv_rows import csv_columns, csv_rows
from croc_cli.sources.read.json_rows import DataError, check_file_kind, unreadable
from croc_cli.sources.read.markers import picture_in_text
from croc_cli.sources.read.picture_keys import unread_picture
from croc_cli.sources.read.reader import Reader, SourceRow, suffix_of
from croc_cli.sources.read.rows import ROW_DEFECTS, BadCell

BATCH_ROWS = 512
"""Rows of a parquet file in memory at once; an image each makes them large."""
_LOOKED_AT = 20
"""Rows in which pictures are looked for in columns that are not read."""
_ARROW = (".parquet", ".arrow")
_ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"


class TableReader(Reader):
    """A table in one file or several.

    Args:
        files: In order; all of one kind.
        image_root: Folder that image paths start from.
        columns: Arguments of `Columns`; empty to go by well-known names.
        name: Of the source, for messages.
    """

    def __init__(self, files: tuple[Path, ...], image_root: Path, *, columns: dict[str, Any], name: str) -> None:
        self.files = files
        self.name = name
        self.image_root: Path = image_root
        names = self._column_names(files[0])
        known = columns or guess_columns(names)
        if not known and len(names) == 1 and ";" in names[0]:
            raise DataError(
                f"{files[0]}: its cells are separated by semicolons, expected commas",
                hint="save it with commas, as the spreadsheet's export offers, or with tabs as .tsv",
            )
        if not known:
            raise DataError(
                f"{files[0]}: columns {', '.join(names)} do not say which is the question and which the answer",
                hint="name them: columns: {human: [question], gpt: [answer], image: file_name}",
            )
        self.columns = Columns(**known)
        self._check_columns(names)
        if not columns and self.columns.image is None:
            self._check_unread(files[0])

    def rows(self) -> Iterator[SourceRow]:
        """Yield every record as a row."""
        for index, (file, number, record) in enumerate(self._records()):
            if isinstance(record, BadCell):
                code, detail = record.defect
            else:
                done = convert(record, self.columns, row_id=f"{self.name}-{index}")
                defect = done.defect or picture_in_text(done.row, self.image_root)
                if defect is None:
                    yield SourceRow(index, done.row, contents=done.contents)
                    continue
                code, detail = defect
            place = f"{file.name}, row {number}: " if len(self.files) > 1 else ""
            yield SourceRow(index, None, defect=(code, place + detail))

    def _check_columns(self, names: list[str]) -> None:
        wanted = self.columns
        missing = [name for name in wanted.names() if name not in names and name not in wanted.gpt]
        if wanted.gpt and not any(name in names or name.split(".")[0] in names for name in wanted.gpt):
            missing += wanted.gpt
        if missing:
            raise DataError(f"{self.files[0]}: no column {', '.join(missing)}", hint=f"it has {', '.join(names)}")

    def _check_unread(self, file: Path) -> None:
        """Raise DataError where one of the first rows holds a picture in a column that is not read."""
        rows = _arrow_rows(file) if suffix_of(file) in _ARROW else csv_rows(file)
        for record in islice(rows, _LOOKED_AT):
            unread = unread_picture(record, self.columns.names()) if not isinstance(record, BadCell) else None
            if unread is not None:
                code, detail = unread
                name = detail.partition(":")[0]
                raise DataError(
                    f"{file}: {ROW_DEFECTS[code].text} ({detail})",
                    hint=f"add `image: {name}` to the source's columns" if code == "picture-unread" else None,
                )

    def _column_names(self, file: Path) -> list[str]:
        if suffix_of(file) in _ARROW:
            return list(_schema(file).names)
        check_file_kind(file)
        return csv_columns(file)

    def _records(self) -> Iterator[tuple[Path, int, dict[str, Any] | BadCell]]:
        """Yield (file, row in it, record) of every row."""
        for file in self.files:
            wanted = {*self.columns.names(), "id"}
            records = _arrow_rows(file, wanted) if suffix_of(file) in _ARROW else csv_rows(file)
            for number, record in enumerate(records):
                yield file, number, record


def _arrow_rows(file: Path, wanted: Collection[str] | None = None) -> Iterator[dict[str, Any] | BadCell]:
    """Yield each row of a parquet or arrow file, with some of its columns or with all."""
    for batch in _parquet_batches(file) if suffix_of(file) == ".parquet" else _arrow_batches(file):
        names = [name for name in batch.schema.names if wanted is None or name in wanted]
        yield from _batch_rows(batch.select(names))


def parquet_rows(file: Path) -> Iterator[dict[str, Any] | BadCell]:
    """Yield each row of a parquet file by column; one that cannot be read is a BadCell.

    Raises:
        DataError: The file cannot be read.
    """
    for batch in _parquet_batches(file):
        yield from _batch_rows(batch)


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | BadCell]:
    try:
        yield from batch.to_pylist()
    except Exception:  # one cell spoils the batch: bytes that are no text, a date out of range
        yield from (_arrow_record(batch.slice(row, 1)) for row in range(batch.num_rows))


def _arrow_record(row: Any) -> dict[str, Any] | BadCell:
    """Return the one record of a batch of one row."""
    found: dict[str, Any] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            found[name] = column[0].as_py()
        except Exception as error:  # whatever pyarrow raises on what it cannot turn into a value
            reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else first_line(error)
            return BadCell("cell-unreadable", f"{name}: {reason}")
    return found


def _schema(file: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        if suffix_of(file) == ".parquet":
            schema = parquet.read_schema(file)
        else:
            with pyarrow.memory_map(str(file)) as content:
                schema = _open_arrow(content).schema
    except Exception as error:  # pyarrow raises nearly anything on a damaged file
        raise unreadable(file, error) from error
    if len(set(schema.names)) < len(schema.names):
        repeated = next(name for name in schema.names if schema.names.count(name) > 1)
        raise DataError(f"{file}: two columns are named {repeated!r}", hint="rename one of them")
    return schema


def _parquet_batches(file: Path) -> Iterator[Any]:
    from pyarrow import parquet

    row = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                row += batch.num_rows
                yield batch
    except Exception as error:
        raise unreadable(file, error, place=f"after row {row}" if row else "") from error


def _arrow_batches(file: Path) -> Iterator[Any]:
    import pyarrow

    row = 0
    try:
        with pyarrow.memory_map(str(file)) as content:
            for batch in _batches(content):
                batch.validate(full=True)  # pyarrow ends the whole process where it takes a damaged batch apart
                row += batch.num_rows
                yield batch
    except Exception as error:
        raise unreadable(file, error, place=f"after row {row}" if row else "") from error


def _open_arrow(content: Any) -> Any:
    """Open an arrow file: a stream, as the datasets library writes it, or the form with an index at its end."""
    from pyarrow import ipc

    has_index = content.read(6) == b"ARROW1"
    content.seek(0)
    return ipc.open_file(content) if has_index else ipc.open_stream(content)


def _batches(content: Any) -> Iterator[Any]:
    source = _open_arrow(content)
    if hasattr(source, "num_record_batches"):
        yield from (source.get_batch(number) for number in range(source.num_record_batches))
        return
    yield from source
    end = content.tell()
    content.seek(max(0, end - len(_ARROW_END)))
    if content.read(len(_ARROW_END)) != _ARROW_END:
        raise ValueError("it ends without the mark of a stream's end, so it may have been cut off")
    if content.read(1):
        raise ValueError("more follows its end, as in files that `cat` joined")
