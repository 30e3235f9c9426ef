"""Reads webdataset tars in place: an image is a tar, an offset and a length."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from croc_cli.reading import RepeatedKeyError, TextError, decode_text, parse_json
from croc_cli.sources.read.columns import Columns, convert, guess_columns
from croc_cli.sources.read.json_rows import unreadable
from croc_cli.sources.read.picture_keys import filled_picture_key, unread_picture
from croc_cli.sources.read.reader import Reader, SourceRow, suffix_of
from croc_cli.sources.read.rows import BadCell
from croc_cli.sources.read.tar_ends import StrictInfo, check_tar_end
from croc_cli.words import counted

IMAGE_SUFFIXES: Final = (
    *("jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"),
    *("avif", "jp2", "ppm", "pgm"),
)
TEXT_SUFFIXES: Final = ("txt", "caption", "text")

Members = dict[str, Any]
"""A sample's members by suffix: texts as bytes, images as (offset, length)."""


class TarReader(Reader):
    """A tar, or a folder of them, whose members of one name before the first dot are one sample.

    An image (jpg, png …) goes with a caption (txt), or with a JSON that holds a conversation or named values, as
    img2dataset and webdataset write them. Where names go on behind the first dot (`cat.v2.jpg`, `cat.v2.txt`), the
    members that agree up to the last dot are a sample of their own.

    Args:
        path: A tar or a folder of tars.
        columns: Arguments of `Columns` for the JSON members' values; empty to go by well-known keys.
    """

    def __init__(self, path: Path, columns: dict[str, Any]) -> None:
        found = [path] if path.is_file() else [file for file in path.iterdir() if suffix_of(file) == ".tar"]
        self.files = tuple(sorted(found))
        self.image_root = path.parent if path.is_file() else path
        self._columns = Columns(**{"image": "image", **columns}) if columns else None

    def rows(self) -> Iterator[SourceRow]:
        """Yield every sample with where its image lies."""
        index = 0
        for file in self.files:
            for key, group in _groups(file):
                for own_key, members in _samples(key, group):
                    yield self._row(index, file, own_key, members)
                    index += 1

    def _row(self, index: int, file: Path, key: str, members: Members) -> SourceRow:
        images = [suffix for suffix in IMAGE_SUFFIXES if suffix in members]
        name = f"{file.name}/{key}.{images[0]}" if images else None
        try:
            if len(images) > 1:
                raise BadCell("images-not-one", f"{counted(len(images), 'image')} of {key}")
            record = _record(file, key, members)
            if name is not None:
                record["image"] = name
                record.pop("images", None)
            columns = self._columns or _guess(record)
            done = convert(record, columns, row_id=key)
            if done.defect is None and name is None:
                _check_images(done.row or {}, done.contents, file, key)
        except BadCell as bad:
            return SourceRow(index, None, defect=bad.defect)
        if done.defect is not None:
            code, detail = done.defect
            return SourceRow(index, None, defect=(code, f"{file.name}, {key}: {detail}"))
        return SourceRow(index, done.row, contents=done.contents, image_range=members[images[0]] if images else None)


def _guess(record: dict[str, Any]) -> Columns:
    """Return which values of a sample hold what.

    Raises:
        BadCell: It has a picture, video or sound under a key that is not read.
    """
    image = filled_picture_key(record) or "image"
    columns = Columns(**{**(guess_columns(list(record)) or {"gpt": ("caption",)}), "image": image})
    if not record.get(image) and (unread := unread_picture(record, columns.names())) is not None:
        raise BadCell(*unread)
    return columns


def _record(file: Path, key: str, members: Members) -> dict[str, Any]:
    """Return the values that the members of a sample hold.

    Raises:
        BadCell: A member is not JSON, or no text in UTF-8.
    """
    record: dict[str, Any] = {}
    if "json" in members:
        try:
            value = parse_json(members["json"])
        except TextError as error:
            code = "key-repeated" if isinstance(error, RepeatedKeyError) else "json-broken"
            raise BadCell(code, f"{file.name}, {key}.json: {error}") from error
        record = dict(value) if isinstance(value, dict) else {"conversations": value}
    for suffix in TEXT_SUFFIXES:
        if suffix in members:
            try:
                record["caption"] = decode_text(members[suffix]).strip()
            except TextError as error:
                raise BadCell("text-not-utf8", f"{file.name}, {key}.{suffix}: {error}") from error
    record.setdefault("id", key)
    record.setdefault("image", None)
    return record


def _check_images(row: dict[str, Any], contents: tuple[bytes | None, ...], file: Path, key: str) -> None:
    """Raise BadCell where a sample without image names one: it would lie beside the tar, not in it."""
    image = row.get("image")
    if image is not None and (not contents or None in contents):
        raise BadCell("image-null", f"{file.name}, {key}: it names {image}, and no such member is beside it")


def _groups(file: Path) -> Iterator[tuple[str, Members]]:
    """Yield (key, members by all that follows the key's dot) of a tar's samples."""
    key: str | None = None
    members: Members = {}
    try:
        with tarfile.open(file, "r:", tarinfo=StrictInfo) as tar:
            for member in tar:
                if not member.isreg():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                own_key = f"{folder}/{stem}" if folder else stem
                if own_key != key:
                    if key is not None and members:
                        yield key, members
                    key, members = own_key, {}
                kind = suffix.rpartition(".")[2].lower()
                if kind in IMAGE_SUFFIXES:
                    members[suffix] = (member.offset_data, member.size)
                elif kind == "json" or kind in TEXT_SUFFIXES:
                    content = tar.extractfile(member)
                    members[suffix] = content.read() if content is not None else b""
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it saw
            check_tar_end(tar)
            if key is not None and members:
                yield key, members
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        hint = "a compressed or broken tar cannot be read in place; unpack it, or download it again"
        raise unreadable(file, error, hint=hint) from error


def _samples(key: str, group: Members) -> Iterator[tuple[str, Members]]:
    """Yield the samples that members of one name before the first dot make.

    Members without a further dot are one; with it, those that agree up to their last dot. Further images and values of
    a sample that is complete without them (`x.jpg`, `x.txt`, `x.seg.png`) are left alone, as webdataset readers do.
    """
    by_stem: dict[str, Members] = {}
    for suffix, member in group.items():
        stem, _, kind = suffix.rpartition(".")
        by_stem.setdefault(stem, {})[kind.lower()] = member
    own = by_stem.pop("", None)
    whole = {stem: members for stem, members in by_stem.items() if _is_whole(members)}
    if own is not None:
        yield key, own
        by_stem = whole if _is_whole(own) else by_stem
    for stem, members in by_stem.items():
        yield f"{key}.{stem}", members


def _is_whole(members: Members) -> bool:
    """Tell whether members are an image with something beside it."""
    return any(kind in IMAGE_SUFFIXES for kind in members) and any(kind not in IMAGE_SUFFIXES for kind in members)
