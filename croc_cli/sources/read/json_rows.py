"""Streams the rows of a JSON list or JSONL file, with the bytes that each takes, in little memory."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from croc_cli.errors import UsageError, first_line
from croc_cli.reading import RepeatedKeyError, TextError, decode_text, not_utf8, parse_json, unique_keys
from croc_cli.sources.read.content import LFS_POINTER, in_place_of_data

BLOCK_BYTES = 4 << 20
LONGEST_ROW = 256 << 20
"""Characters after which a row without end is taken for broken JSON."""

_KEY = re.compile(rb'"[ \t\r\n]*:')


class _Pairs:
    """Makes objects of their pairs, and remembers the first key that one of them has twice."""

    def __init__(self) -> None:
        self.repeated: RepeatedKeyError | None = None

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        try:
            return unique_keys(pairs)
        except RepeatedKeyError as error:
            self.repeated = self.repeated or error
            return dict(pairs)


_pairs = _Pairs()
_scan = json.JSONDecoder(object_pairs_hook=_pairs).scan_once  # type: ignore[attr-defined]  # not in typeshed
_SPACE = " \t\r\n"


class DataError(UsageError):
    """A data file that cannot be used as it is; exit code 2."""


def unreadable(file: Path, error: BaseException, *, place: str = "", hint: str | None = None) -> DataError:
    """Return the error of a data file that cannot be read; every reader reports by it.

    Args:
        file: The file.
        error: What went wrong, in the words of the library that reads it.
        place: Where in the file, such as "row 7".
        hint: What to do, where the error itself does not say.
    """
    where = f"{file}, {place}" if place else str(file)
    if isinstance(error, TextError):
        return DataError(f"{file}, {error.reason}", hint=error.hint_for(file) or hint)
    if isinstance(error, UnicodeDecodeError):
        reason = not_utf8(error.object[error.start], "")
        return DataError(f"{where}{reason.reason}", hint=reason.hint_for(file))
    reason_text = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    return DataError(f"{where}: cannot be read: {reason_text}", hint=hint or "download it again")


class JsonRow(NamedTuple):
    """One row.

    Args:
        number: From 0.
        value: What it holds; for a line that is not JSON, and for an object with a key twice, the ValueError that
            says why.
        start: Its first byte in the file.
        end: The byte behind its last.
        line: Line of a JSONL file, from 1; 0 in a list.
    """

    number: int
    value: Any
    start: int
    end: int
    line: int


def check_file_kind(path: Path) -> None:
    """Raise DataError where a file is missing, empty, or plainly something else than data.

    Raises:
        DataError: Says what it is: a web page, a Git LFS pointer, an archive.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise unreadable(path, error, hint="name a file that can be read") from error
    if not head:
        raise DataError(f"{path}: no rows: the file is empty", hint="download it again")
    try:
        decode_text(head[:4])
    except TextError as error:
        if "UTF-16" in error.reason or "UTF-32" in error.reason:
            raise unreadable(path, error) from error
    if (found := in_place_of_data(head)) is not None:
        hint = "`git lfs pull`, or download" if found == LFS_POINTER else "download"
        raise DataError(
            f"{path}, line 1: not JSON: {found} in place of the data file",
            hint=f"this is {found}; {hint} the file itself, from /resolve/ and not /blob/ on the hub",
        )
    for magic, kind in ((b"PAR1", "a parquet file"), (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "gzipped")):
        if head.startswith(magic):
            raise DataError(f"{path}: {kind}, not JSON", hint="unpack it, or give it its own name ending")


def is_json_list(path: Path) -> bool:
    """Tell a JSON list from JSONL by its first character."""
    with path.open("rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def json_rows(path: Path) -> Iterator[JsonRow]:
    """Yield the rows of a JSON list or JSONL file.

    Raises:
        DataError: The file is no such thing; for a list that is broken JSON, with line and column.
    """
    check_file_kind(path)
    with path.open("rb") as file:
        try:
            yield from _list_rows(path, file) if is_json_list(path) else _line_rows(path, file)
        except OSError as error:
            raise unreadable(path, error) from error


def parse_row(content: bytes) -> Any:
    """Return the value of a row, in half the time that `json.loads` takes.

    Raises:
        TextError: It is not JSON in UTF-8.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:  # what orjson is stricter about, such as NaN, and messages with a column
        return parse_json(content)
    # orjson takes the last of two values of one key. A key too many, or a text that looks like one, is looked at again.
    marks = content.count(b'":') if b'" ' not in content and b'"\t' not in content else len(_KEY.findall(content))
    return value if marks == _num_keys(value) else parse_json(content)


def _num_keys(value: Any) -> int:
    """Return the number of keys in all objects of a value."""
    if type(value) is not dict:
        return sum(map(_num_keys, value)) if type(value) is list else 0
    found = len(value)
    for one in value.values():
        if type(one) is list or type(one) is dict:
            found += _num_keys(one)
    return found


def _line_rows(path: Path, file: BinaryIO) -> Iterator[JsonRow]:
    end = index = number = 0
    for line in file:
        start, end, number = end, end + len(line), number + 1
        if number == 1 and line.startswith(codecs.BOM_UTF8):
            line, start = line[3:], 3
        if number == 1 and line.strip() == b"{":
            raise DataError(
                f"{path}, line 1: an object that spans lines; expected a list, or one object a line",
                hint=f"`jq -c . {path} > NEW` writes one object a line; `jq -c '.KEY[]'` the rows under a key",
            )
        value: Any
        try:
            value = parse_row(line)
        except TextError as error:
            if not line.strip():
                continue
            kind = RepeatedKeyError if isinstance(error, RepeatedKeyError) else TextError
            value = kind(error.reason.removeprefix("line 1, ").removeprefix("line 1: "), hint=error.hint)
        yield JsonRow(index, value, start, start + len(line.rstrip()) if line else end, number)
        index += 1


class _Text:
    """The part of a file that is looked at, as text, with where it starts."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.text = ""
        self.ascii = True
        self.at_end = False
        self.start_byte = 0
        self.start_line = 1
        self.line_start = 0  # column of the text's first character in its line
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def advance(self, position: int) -> None:
        """Forget the text before a position and read on."""
        gone = self.text[:position]
        self.start_byte += len(gone) if self.ascii else len(gone.encode())
        newlines = gone.count("\n")
        self.start_line += newlines
        self.line_start = len(gone) - gone.rfind("\n") - 1 if newlines else self.line_start + len(gone)
        block = self.file.read(BLOCK_BYTES)
        self.at_end = not block
        try:
            self.text = self.text[position:] + self._decoder.decode(block, final=self.at_end)
        except UnicodeDecodeError as error:
            line = self.start_line + self.text.count("\n", position) + error.object.count(b"\n", 0, error.start)
            raise unreadable(self.path, not_utf8(error.object[error.start], f"line {line}")) from error
        self.ascii = self.text.isascii()

    def skip(self, position: int, letters: str) -> int:
        """Return the next position that holds none of some letters; at the file's end, the text's length."""
        while True:
            while position < len(self.text) and self.text[position] in letters:
                position += 1
            if position < len(self.text) or self.at_end:
                return position
            self.advance(position)
            position = 0

    def error(self, message: str, position: int, *, hint: str | None = None) -> DataError:
        """Return the error of broken JSON at a position."""
        before = self.text[:position]
        newlines = before.count("\n")
        line = self.start_line + newlines
        column = position - before.rfind("\n") if newlines else self.line_start + position + 1
        return DataError(f"{self.path}, line {line}, column {column}: not JSON: {message}", hint=hint)


def _list_rows(path: Path, file: BinaryIO) -> Iterator[JsonRow]:
    buffer = _Text(path, file)
    if file.read(3) == codecs.BOM_UTF8:
        buffer.start_byte = 3
    else:
        file.seek(0)
    buffer.advance(0)
    position = buffer.skip(0, _SPACE) + 1
    index = 0
    position = buffer.skip(position, _SPACE)
    if buffer.text[position : position + 1] == "]":
        _check_end(buffer, position + 1)
        return
    text_now, known, known_byte = buffer.text, 0, buffer.start_byte
    while True:
        value, position, stop = _value(buffer, position)
        if buffer.text is not text_now:
            text_now, known, known_byte = buffer.text, 0, buffer.start_byte
        if buffer.ascii:
            start, end = buffer.start_byte + position, buffer.start_byte + stop
        else:
            start = known_byte + len(text_now[known:position].encode())
            end = start + len(text_now[position:stop].encode())
            known, known_byte = stop, end
        yield JsonRow(index, value, start, end, 0)
        index += 1
        position = buffer.skip(stop, _SPACE)
        mark = buffer.text[position : position + 1]
        if mark == "]":
            _check_end(buffer, position + 1)
            return
        if mark != ",":
            raise buffer.error("expected a comma or the list's end" if mark else "the file ends too early", position)
        position = buffer.skip(position + 1, _SPACE)
        if buffer.text is not text_now:
            text_now, known, known_byte = buffer.text, 0, buffer.start_byte


def _check_end(buffer: _Text, position: int) -> None:
    """Raise DataError where anything but white space follows a list's end: rows that would be lost silently."""
    position = buffer.skip(position, _SPACE)
    if position == len(buffer.text):
        return
    while len(buffer.text) < position + len("<<<<<<<") and not buffer.at_end:
        buffer.advance(position)
        position = 0
    if buffer.text[position : position + 7] in ("<<<<<<<", "=======", ">>>>>>>", "|||||||"):
        raise buffer.error("marks of a merge conflict after the list's end", position, hint="resolve the conflict")
    hint = f"a file holds one list; `jq -s 'flatten(1)' {buffer.path} > NEW` joins lists and rows one after the other"
    if buffer.text[position] not in "[{":
        hint = "a file holds one list: what belongs to it stands before its closing bracket"
    raise buffer.error("more text after the list's end", position, hint=hint)


def _value(buffer: _Text, position: int) -> tuple[Any, int, int]:
    """Return the value at a position, where it starts and where it ends, reading on where the text ends before it."""
    while True:
        try:
            _pairs.repeated = None
            value, stop = _scan(buffer.text, position)
            if stop < len(buffer.text) or buffer.at_end:
                return _pairs.repeated or value, position, stop
            message, where = "the file ends too early", stop
        except StopIteration as error:
            message, where = "expected a value", error.value
        except json.JSONDecodeError as error:
            message, where = error.msg, error.pos
        except RecursionError:
            raise buffer.error("nested too deeply", position) from None
        except ValueError as error:  # an integer of more digits than Python converts
            raise buffer.error(first_line(error), position) from error
        # What is wrong well before the end of the text stays wrong, however much of the file follows.
        is_final = where < len(buffer.text) - 16 and not message.startswith("Unterminated")
        if is_final or buffer.at_end or len(buffer.text) - position > LONGEST_ROW:
            raise buffer.error(message if where < len(buffer.text) else "the file ends too early", where)
        buffer.advance(position)
        position = 0
