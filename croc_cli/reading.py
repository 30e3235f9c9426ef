"""Reads text and JSON strictly: what is not UTF-8 or not JSON is an error with its line and column."""

import codecs
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from croc_cli.errors import UsageError, first_line

_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""UTF-32 comes first: its little-endian mark begins with that of UTF-16."""


class TextError(ValueError):
    """Text that cannot be read.

    Args:
        reason: Place and reason, such as "line 3, column 5: not JSON: Extra data".
        hint: What to do about it; FILE and NEW stand for the file and a new one beside it.
    """

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def hint_for(self, file: Path) -> str | None:
        """Return what to do about a file."""
        new = file.with_name(f"{file.stem}.utf8{file.suffix}")
        return self.hint and self.hint.replace("FILE", shlex.quote(str(file))).replace("NEW", shlex.quote(str(new)))


def decode_text(content: bytes, *, first: int = 1) -> str:
    """Return UTF-8 text without its byte-order mark.

    Args:
        content: The bytes.
        first: Number of their first line, for the message.

    Raises:
        TextError: It is not UTF-8; names the line, and the encoding that it seems to have.
    """
    for mark, name in _BOMS:
        if content.startswith(mark):
            raise TextError(f"line {first}: {name} text, not UTF-8", hint=_convert_hint(name))
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = first + content.count(b"\n", 0, error.start)
        raise not_utf8(content[error.start], f"line {line}") from error


def not_utf8(byte: int, place: str) -> TextError:
    """Return the error of a byte that is not UTF-8."""
    # From 0xA0 on both mean the same letters; between 0x80 and 0x9F only Windows has letters.
    return TextError(
        f"{place}: not UTF-8 text (byte 0x{byte:02X}, as Windows-1252 or Latin-1 have it)",
        hint=_convert_hint("WINDOWS-1252"),
    )


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        TextError: It is not one JSON value in UTF-8, from its first byte to its last; names line and column.
    """
    text = decode_text(content)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TextError(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise TextError("not JSON that can be read: nested too deeply") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise TextError(f"not JSON that can be read: {first_line(error)}") from error


def read_json_file(file: Path, *, error: type[UsageError] = UsageError, hint: str | None = None) -> Any:
    """Read a JSON file.

    Args:
        file: The file.
        error: The class of the error.
        hint: What to do about a file that is damaged.

    Raises:
        UsageError: Of that class; it cannot be read, or is not JSON. Names file, line and column.
    """
    try:
        return parse_json(file.read_bytes())
    except TextError as reason:
        raise error(f"{file}, {reason.reason}", hint=reason.hint_for(file) or hint) from reason
    except OSError as reason:
        raise error(f"{file}: cannot be read: {reason.strerror or reason}", hint=hint) from reason


def read_json_lines(file: Path, *, error: type[UsageError] = UsageError) -> Iterator[tuple[int, Any]]:
    """Yield (line from 1, value) of every line of a JSONL file that is not blank.

    Raises:
        UsageError: Of the class `error`; the file cannot be read, or a line is not JSON. Names file, line and column.
    """
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    yield number, parse_json(line)
                except TextError as reason:
                    message = reason.reason.removeprefix("line 1: ").removeprefix("line 1, ")
                    raise error(f"{file}, line {number}, {message}", hint=reason.hint_for(file)) from reason
    except OSError as reason:
        raise error(f"{file}: cannot be read: {reason.strerror or reason}") from reason


def json_text(value: Any) -> str:
    """Return a value as JSON on one line; letters stay letters unless they are halves that UTF-8 cannot write."""
    text = json.dumps(value, ensure_ascii=False)
    return text if is_unicode(text) else json.dumps(value)


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """Return a text with what a terminal or a list of lines cannot show written as escapes."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _convert_hint(name: str) -> str:
    return f"save it as UTF-8: `iconv -f {name} -t UTF-8 FILE > NEW`"
