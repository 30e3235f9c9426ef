"""Reads the text and JSON of benchmark files and answer files, or refuses them with file, row and reason.

UTF-8 with and without a byte order mark and UTF-16 with one are read; every other encoding is refused, as its letters
would be guesses. Half of a surrogate pair, which JSON can write and no text can hold, is read as U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from croc_cli.errors import UsageError
from croc_cli.files import read_bytes
from croc_cli.reading import TextError, decode_text, parse_text

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_BINARY = {b"PAR1": "a parquet file", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "gzipped"}
_REPLACEMENT = "\ufffd"


class BenchmarkDataError(UsageError):
    """A benchmark's files or an answer file are not as they should be; exit code 2."""


def read_text(file: Path) -> str:
    """Return a file's text, without a byte order mark.

    Raises:
        BenchmarkDataError: It cannot be read, or is neither UTF-8 nor marked as UTF-16; says in which line.
    """
    try:
        content = read_bytes(file)
    except OSError as error:
        raise BenchmarkDataError(f"{file} cannot be read: {error.strerror or error}") from error
    if found := next((kind for mark, kind in _BINARY.items() if content.startswith(mark)), None):
        raise BenchmarkDataError(
            f"{file}: {found}, not text", hint="unpack or convert it: JSON, JSON lines, CSV or TSV"
        )
    try:
        return decode_text(content, utf16=True)
    except TextError as error:
        raise BenchmarkDataError(f"{file}, {error.reason}", hint=error.hint_for(file)) from error


def parse_json(text: str, file: Path, *, first: int = 1) -> Any:
    """Return the value of a JSON text.

    Args:
        text: The text.
        file: Its file, for the message.
        first: Number of the text's first line there.

    Raises:
        BenchmarkDataError: It is not JSON, has a key twice, is nested too deep, or holds a number of too many digits.
    """
    try:
        value = parse_text(text, first=first)
    except TextError as error:
        raise BenchmarkDataError(f"{file}, {error.reason}", hint=error.hint_for(file)) from error
    # Only an escape can make half a pair, so that texts without one need no second look.
    return _whole_characters(value) if "\\u" in text else value


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        BenchmarkDataError: It is not JSON; says where.
    """
    return parse_json(read_text(file), file)


def read_json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place for messages, object) of every line.

    Raises:
        BenchmarkDataError: A line is not a JSON object; says which.
    """
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        row = parse_json(line, file, first=number)
        if not isinstance(row, dict):
            raise BenchmarkDataError(f"{where}: not a JSON object")
        yield where, row


def take(record: Any, name: Any, where: str) -> Any:
    """Return a field of a record.

    Raises:
        BenchmarkDataError: The record has no such field; says which record.
    """
    if not isinstance(record, Mapping):
        raise BenchmarkDataError(f"{where}: {type(record).__name__} where an object with {name!r} is expected")
    if name not in record:
        fields = ", ".join(map(str, list(record)[:10])) + (", …" if len(record) > 10 else "") or "none"
        raise BenchmarkDataError(f"{where}: no field {name!r}", hint=f"it has {fields}")
    return record[name]


def take_object(value: Any, where: str) -> dict[str, Any]:
    """Return a value that is an object.

    Raises:
        BenchmarkDataError: It is something else.
    """
    if not isinstance(value, dict):
        raise BenchmarkDataError(f"{where}: {shown(value)} where an object is expected")
    return value


def take_text(record: Any, name: Any, where: str) -> str:
    """Return a field that holds text.

    Raises:
        BenchmarkDataError: The record has no such field, or it holds no text.
    """
    value = take(record, name, where)
    if not isinstance(value, str):
        raise BenchmarkDataError(f"{where}: {name} is {shown(value)}, expected text")
    return value


def take_number(record: Any, name: Any, where: str) -> int:
    """Return a field that holds a whole number, written as a number or as text.

    Raises:
        BenchmarkDataError: The record has no such field, or it holds no whole number.
    """
    value = take(record, name, where)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
        return int(value)
    raise BenchmarkDataError(f"{where}: {name} is {shown(value)}, expected a whole number")


def take_id(record: Any, name: Any, where: str) -> str | int:
    """Return a field that names a question or a picture.

    Raises:
        BenchmarkDataError: The record has no such field, or it holds neither text nor a whole number.
    """
    value = take(record, name, where)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BenchmarkDataError(f"{where}: {name} is {shown(value)}, expected text or a whole number")
    return value


def take_list(record: Any, name: Any, where: str) -> list[Any]:
    """Return a field that holds a list.

    Raises:
        BenchmarkDataError: The record has no such field, or it holds no list.
    """
    value = take(record, name, where)
    if not isinstance(value, list):
        raise BenchmarkDataError(f"{where}: {name} is {shown(value)}, expected a list")
    return value


def take_texts(record: Any, name: Any, where: str) -> list[str]:
    """Return a field that holds a list of texts.

    Raises:
        BenchmarkDataError: The record has no such field, or it holds no list of texts.
    """
    values = take_list(record, name, where)
    for value in values:
        if not isinstance(value, str):
            raise BenchmarkDataError(f"{where}: {name} holds {shown(value)}, expected texts")
    return values


def shown(value: object) -> str:
    """Return a value as messages have it, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF_PAIR.sub(_REPLACEMENT, value)
    if isinstance(value, list):
        return [_whole_characters(one) for one in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(one) for key, one in value.items()}
    return value
