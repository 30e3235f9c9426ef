"""Reads text and JSON strictly: what is not UTF-8 or not JSON is an error with its line and column."""

import codecs
import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from croc_cli.errors import UsageError, first_line
from croc_cli.files import open_file, read_bytes

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


class RepeatedKeyError(TextError):
    """An object that has a key twice: one of the two values would be lost silently."""


def decode_text(content: bytes, *, first: int = 1, utf16: bool = False) -> str:
    """Return UTF-8 text without its byte-order mark.

    Args:
        content: The bytes.
        first: Number of their first line, for the message.
        utf16: Read UTF-16 as well, where a mark says that it is.

    Raises:
        TextError: It is not UTF-8; names the line, and the encoding that it seems to have.
    """
    mark = next(((mark, name) for mark, name in _BOMS if content.startswith(mark)), None)
    if mark is not None and utf16 and mark[1] == "UTF-16":
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise TextError(f"damaged UTF-16 at byte {error.start}", hint="save the file as UTF-8") from error
    if mark is not None:
        raise TextError(f"line {first}: {mark[1]} text, not UTF-8", hint=_convert_hint(mark[1]))
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


def parse_json(content: bytes, *, first: int = 1) -> Any:
    """Return the value of a JSON text; see `parse_text`.

    Raises:
        TextError: It is not one JSON value in UTF-8, from its first byte to its last; names line and column.
    """
    return parse_text(decode_text(content, first=first), first=first)


def parse_text(text: str, *, first: int = 1) -> Any:
    """Return the value of a JSON text, strictly: no key twice, nothing after the value.

    Args:
        text: The text.
        first: Number of its first line, for the message.

    Raises:
        TextError: It is not one JSON value; names line and column.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        line = error.lineno + first - 1
        raise TextError(f"line {line}, column {error.colno}: not JSON: {error.msg}") from error
    except RepeatedKeyError as error:
        line = _line_of_repeated(text) + first - 1
        raise RepeatedKeyError(f"line {line}: {error.reason}", hint=error.hint) from None
    except RecursionError as error:
        raise TextError(f"line {first}: not JSON that can be read: nested too deeply") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise TextError(f"line {first}: not JSON that can be read: {first_line(error)}") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of its pairs; the `object_pairs_hook` of whatever reads JSON.

    Raises:
        RepeatedKeyError: A key is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # None
        raise repeated_key(key)
    return found


def repeated_key(key: str) -> RepeatedKeyError:
    """Return the error of a key that an object has twice."""
    shown = repr(key) if len(key) <= 60 else f"{key[:57]!r}…"
    return RepeatedKeyError(f"the key {shown} stands twice in one object", hint="leave one of the two")


def _line_of_repeated(text: str) -> int:
    """Return the line, from 1, where the object starts that has a key twice; the whole text's where that is unknown."""
    starts: list[int] = []
    decoder: Any = json.JSONDecoder(object_pairs_hook=unique_keys)  # Any: typeshed leaves out what a scanner reads
    scanned = decoder.parse_object

    def parse_object(place: tuple[str, int], *rest: Any) -> Any:
        try:
            return scanned(place, *rest)
        except RepeatedKeyError:
            starts.append(place[1])  # the innermost first
            raise

    decoder.parse_object = parse_object
    with suppress(ValueError, StopIteration, RecursionError):
        json.scanner.py_make_scanner(decoder)(text, len(text) - len(text.lstrip()))  # type: ignore[attr-defined]  # same
    return text.count("\n", 0, starts[0]) + 1 if starts else 1


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
        return parse_json(read_bytes(file))
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
        with open_file(file) as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    yield number, parse_json(line, first=number)
                except TextError as reason:
                    raise error(f"{file}, {reason.reason}", hint=reason.hint_for(file)) from reason
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
