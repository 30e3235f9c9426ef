"""From what a cell or a key says of pictures to their names and bytes: paths, bytes, structs, data URLs, base64."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from croc_cli.sources.read.rows import BadCell, shown

_BASE64_STARTS: Final = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkqA", "TU0AK")
"""How JPEG, PNG, GIF, WebP and TIFF begin in base64; no path that stays in its folder begins and goes on so."""
_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_DATA_URL = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
_NUMBERED = re.compile(r"<image_?\d+>")
_INSIDE: Final = ("image", "image_url", "url", "path", "file_name", "base64", "data", "source")
"""Keys under which a struct or a part of a message holds its picture; the first that is there."""


class Picture(NamedTuple):
    """One picture of a record.

    Args:
        name: Its path, or what the record calls it; None where it has no name.
        content: Its bytes, where the record holds them.
    """

    name: str | None
    content: bytes | None = None


def read_pictures(value: Any, place: str) -> list[Picture]:
    """Return the pictures that a cell names or holds; none for an empty cell or an empty list.

    Args:
        value: A path, a picture's bytes, a data URL or base64, a struct of one of them, or a list.
        place: For messages.

    Raises:
        BadCell: It is none of those, or one of a list is null.
    """
    if value is None:
        return []
    if isinstance(value, str) and value.startswith("[") and (names := _listed(value)) is not None:
        value = names  # a CSV has no other way to name several
    if isinstance(value, Mapping) and value and all(_NUMBERED.fullmatch(str(name)) for name in value):
        value = list(value.values())  # MiniCPM-V's rows: {"<image_00>": path, …}
    if isinstance(value, list | tuple):
        return [read_picture(one, place) for one in value]
    return [read_picture(value, place)]


def read_picture(value: Any, place: str) -> Picture:
    """Return the one picture that a value names or holds.

    Raises:
        BadCell: It is not a picture.
    """
    if isinstance(value, str):
        return _from_text(value, place)
    if isinstance(value, bytes | bytearray | memoryview):
        if not len(value):
            raise BadCell("image-null", f"{place}: zero bytes")
        return Picture(None, bytes(value))
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if content is not None:
            return Picture(path if isinstance(path, str) and path else None, read_picture(content, place).content)
        inside = next((value[key] for key in _INSIDE if value.get(key) is not None), None)
        if inside is not None:
            return read_picture(inside, place)
        raise BadCell("image-null", f"{place}: {shown(dict(value))}")
    if value is None:
        raise BadCell("image-null", f"{place}: nothing")
    raise BadCell("image-not-text", f"{place}: {shown(value)}")


def holds_picture(text: str) -> bool:
    """Tell whether a text is a picture itself, as a data URL or base64, not a path."""
    return text[:5].lower() == "data:" or (text.startswith(_BASE64_STARTS) and _decoded(text) is not None)


def _from_text(text: str, place: str) -> Picture:
    if not text.strip():
        raise BadCell("image-null", f"{place}: {shown(text)}")
    if text[:5].lower() == "data:":
        head = _DATA_URL.match(text)
        if head is None or "base64" not in head[1].lower():
            raise BadCell("image-encoded", f"{place}: a data URL without base64: {shown(text)}")
        try:
            content = base64.b64decode("".join(text[head.end() :].split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadCell("image-encoded", f"{place}: {error}") from error
        if not content:
            raise BadCell("image-null", f"{place}: a data URL of zero bytes")
        return Picture(None, content)
    if text.startswith(_BASE64_STARTS) and (found := _decoded(text)) is not None:
        return Picture(None, found)
    return Picture(text)


def _decoded(text: str) -> bytes | None:
    """Return what base64 without a prefix holds, where it is a picture."""
    if not _BASE64.fullmatch(text):
        return None
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if content.startswith(_MAGIC) else None


def _listed(text: str) -> list[str] | None:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
