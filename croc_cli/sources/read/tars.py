"""Reads webdataset tars in place: an image is a tar, an offset and a length."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from croc_cli.sources.read.columns import Columns, convert
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.reader import Reader, SourceRow
from croc_cli.sources.read.rows import Defect

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXT_SUFFIXES = ("txt", "caption", "text")


class TarReader(Reader):
    """A tar, or a folder of them, whose members of one name before the first dot are one sample.

    An image (jpg, png …) goes with a caption (txt), or with a JSON that holds a conversation or named values, as
    img2dataset and webdataset write them.

    Args:
        path: A tar or a folder of tars.
        columns: Arguments of `Columns` for the JSON members' values; empty to look for conversations, then a caption.
    """

    def __init__(self, path: Path, columns: dict[str, Any]) -> None:
        self.files = (path,) if path.is_file() else tuple(sorted(path.glob("*.tar")))
        self.image_root = path.parent if path.is_file() else path
        self._columns = Columns(**{"image": "image", **columns}) if columns else None

    def rows(self, *, with_images: bool = False) -> Iterator[SourceRow]:
        """Yield every sample with where its image lies."""
        del with_images
        index = 0
        for file in self.files:
            for key, members in self._samples(file):
                row, defect, where = self._row(file, key, members)
                yield SourceRow(index, row, defect=defect, image_range=where)
                index += 1

    def _samples(self, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (key, members by suffix) of a tar; texts as bytes, images as (offset, length)."""
        key: str | None = None
        members: dict[str, Any] = {}
        try:
            with tarfile.open(file, "r:") as tar:
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
                    suffix = suffix.lower()
                    if suffix in IMAGE_SUFFIXES:
                        members[suffix] = (member.offset_data, member.size)
                    elif suffix == "json" or suffix in TEXT_SUFFIXES:
                        content = tar.extractfile(member)
                        members[suffix] = content.read() if content is not None else b""
                    tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it saw
                if key is not None and members:
                    yield key, members
        except (tarfile.TarError, OSError) as error:
            raise DataError(
                f"{file}: no tar that can be read: {error}",
                hint="a compressed or broken tar cannot be read in place; unpack it, or download it again",
            ) from error

    def _row(
        self, file: Path, key: str, members: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, Defect | None, tuple[int, int] | None]:
        images = [(suffix, members[suffix]) for suffix in IMAGE_SUFFIXES if suffix in members]
        if len(images) > 1:
            return None, ("images-not-one", f"{len(images)} images of {key}"), None
        record: dict[str, Any] = {}
        if "json" in members:
            try:
                value = json.loads(members["json"])
            except ValueError as error:
                return None, ("json-broken", f"{file.name}, {key}.json: {error}"), None
            record = value if isinstance(value, dict) else {"conversations": value}
        for suffix in TEXT_SUFFIXES:
            if suffix in members:
                record["caption"] = members[suffix].decode("utf-8", errors="replace").strip()
        name = f"{file.name}/{key}.{images[0][0]}" if images else None
        record["image"] = name
        columns = self._columns or Columns(
            image="image",
            conversations="conversations" if "conversations" in record else None,
            gpt=("caption",),
        )
        record.setdefault("id", key)
        done = convert(record, columns, row_id=key, with_image=False)
        return done.row, done.defect, images[0][1] if images else None
