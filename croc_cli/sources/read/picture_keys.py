"""Which keys of a row hold its pictures, and which other keys hold one that nothing would look at."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from croc_cli.reading import printable
from croc_cli.sources.read.picture_cells import holds_picture
from croc_cli.sources.read.rows import Defect, shown

PICTURE_NAMES: Final = (
    *("image", "images", "file_name", "image_path", "image_file", "filename", "jpg", "png", "image_paths"),
    *("img", "imgs", "picture", "pictures", "photo", "photos", "pic", "pics", "image_files", "image_list"),
    *("img_path", "img_paths", "img_file", "image_name", "img_name", "picture_path", "photo_path"),
    *("images_path", "images_paths", "image_url", "image_urls", "img_url"),
    *("image_base64", "image_bytes", "base64_image", "jpeg", "webp"),
)
"""Keys and columns that hold pictures; the first of a row that is not empty is read. Case does not matter."""
MEDIA_NAMES: Final = frozenset(
    f"{kind}{ending}"
    for kind in ("video", "audio", "sound", "speech", "clip")
    for ending in ("", "s", "_path", "_paths", "_file", "_files", "_url", "_list")
)
_MANY: Final = ("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos")
"""Of these, two with different pictures are several; others often name the same picture in another way."""
_ANY_FILE: Final = ("file_name", "filename", "image_name", "img_name", "jpg", "png", "jpeg", "webp")
"""Beside a conversation these may hold anything: what they hold has to look like a picture."""
_NO_PICTURES: Final = ("id", "uid", "uuid", "key", "source", "dataset", "origin", "split", "model")
"""Keys whose texts may well end like a picture's name."""
_PICTURE: Final = re.compile(r"[^\n<>]{1,1000}\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|jp2|ppm|pgm)", re.IGNORECASE)
_MEDIA: Final = re.compile(r"[^\n<>]{1,1000}\.(mp4|m4v|webm|avi|mov|mkv|wav|mp3|flac|ogg|m4a|opus)", re.IGNORECASE)
_DEEPEST, _MOST = 3, 8


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """Return a key as it is compared: `Image-Path` is image_path."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def picture_key(names: Iterable[str]) -> str | None:
    """Return the key that holds pictures, by its name; None where there is none."""
    known = {plain_name(name): name for name in reversed(list(names)) if isinstance(name, str)}
    return next((known[name] for name in PICTURE_NAMES if name in known), None)


def filled_picture_key(record: Mapping[str, Any]) -> str | None:
    """Return the key that holds a record's pictures, an empty one only where no other is there."""
    return picture_key(name for name in record if not _is_empty(record[name])) or picture_key(record)


def other_picture_key(record: Mapping[str, Any]) -> str | None:
    """Return the key other than `image` that holds the pictures of a record with a conversation, or None."""
    for name, value in record.items():
        plain = plain_name(str(name))
        if plain not in PICTURE_NAMES or name == "image" or _is_empty(value):
            continue
        if plain not in _ANY_FILE or _find(value, name, _DEEPEST) is not None:
            return name
    return None


def media_key(record: Mapping[str, Any]) -> str | None:
    """Return the key of a record that holds video or sound, or None."""
    return next((name for name in record if plain_name(str(name)) in MEDIA_NAMES and not _is_empty(record[name])), None)


def pictures_twice(record: Mapping[str, Any]) -> Defect | None:
    """Return the defect of a record whose keys hold different pictures, such as `image` and `images`."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if plain_name(str(name)) in _MANY and not _is_empty(value):
            found[name] = value if isinstance(value, list) else [value]
    first = next(iter(found), None)
    other = next((name for name in found if found[name] != found[first]), None) if first is not None else None
    if first is None or other is None:
        return None
    return ("images-not-one", f"{first}: {shown(record[first])}, and {other} as well")


def unread_picture(record: Mapping[str, Any], read: Iterable[str] = ()) -> Defect | None:
    """Return the defect of a record that holds a picture, video or sound under a key that nothing reads.

    Args:
        record: Without pictures that are read.
        read: Keys that hold text, so that their values are not looked at.
    """
    for name, value in record.items():
        if name in read or plain_name(str(name)) in _NO_PICTURES or _is_empty(value):
            continue
        if (found := _find(value, str(name), _DEEPEST)) is not None:
            place, code, seen = found
            return (code, f"{printable(place)}: {shown(seen)}")
    return None


def _find(value: Any, place: str, deep: int) -> tuple[str, str, Any] | None:
    """Return (place, code, value) of the first picture or media file in a value."""
    if isinstance(value, str):
        if "." not in value[-6:] and len(value) <= 100:
            return None
        if _PICTURE.fullmatch(value) or (len(value) > 100 and holds_picture(value)):
            return place, "picture-unread", value
        return (place, "media-unknown", value) if _MEDIA.fullmatch(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return place, "picture-unread", bytes(value[:20])
    if not deep or not isinstance(value, Mapping | list | tuple):
        return None
    inside = value.items() if isinstance(value, Mapping) else enumerate(value[:_MOST])
    return next((hit for key, one in inside if (hit := _find(one, f"{place}.{key}", deep - 1))), None)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | bytes | list | tuple | Mapping) and not len(value))
