"""Reads JSON lists and JSONL, each row by its own keys: LLaVA's form as it stands, any other converted."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from croc_cli.reading import RepeatedKeyError
from croc_cli.sources.read.columns import CONVERSATION_NAMES, Columns, Converted, convert, guess_columns
from croc_cli.sources.read.json_rows import DataError, check_file_kind, json_rows
from croc_cli.sources.read.markers import has_markers, may_hold_markers, picture_in_text
from croc_cli.sources.read.picture_cells import holds_picture
from croc_cli.sources.read.picture_keys import (
    filled_picture_key,
    media_key,
    other_picture_key,
    pictures_twice,
    unread_picture,
)
from croc_cli.sources.read.reader import Reader, SourceRow
from croc_cli.sources.read.rows import shown

_LLAVA_KEYS: Final = frozenset(("id", "image", "conversations", "model"))
"""Keys of LLaVA's own files; whatever else a row has is looked at."""


class JsonReader(Reader):
    """A JSON list or JSONL.

    Args:
        path: The file.
        image_root: Folder that the rows' image paths start from; default: the file's own folder.
        columns: Arguments of `Columns`; empty to go by each row's well-known keys.
        name: Of the source; rows without id are numbered under it.
    """

    def __init__(self, path: Path, image_root: Path | None = None, *, columns: dict[str, Any], name: str) -> None:
        check_file_kind(path)
        self.files = (path,)
        self.image_root = image_root if image_root is not None else path.parent
        self.name = name
        self._columns = Columns(**columns) if columns else None
        if self._columns is not None:
            self._check_keys(self._columns)

    def rows(self) -> Iterator[SourceRow]:
        """Yield every row; one in LLaVA's form with the bytes that it takes."""
        for index, value, start, end, line in json_rows(self.files[0]):
            if isinstance(value, ValueError):
                code = "key-repeated" if isinstance(value, RepeatedKeyError) else "json-broken"
                yield SourceRow(index, None, defect=(code, f"line {line}, {value}" if line else str(value)))
                continue
            done = read_json_row(value, row_id=f"{self.name}-{index}", columns=self._columns, root=self.image_root)
            if done.row is value:
                yield SourceRow(index, value, start, end)
            else:
                row = value if done.defect is not None else done.row
                yield SourceRow(index, row, defect=done.defect, contents=done.contents)

    def _check_keys(self, columns: Columns) -> None:
        """Raise DataError where the first row has none of the keys; that a row lacks some may well be."""
        for row in json_rows(self.files[0]):
            if isinstance(row.value, dict):
                if not set(columns.names()) & set(row.value):
                    raise DataError(
                        f"{self.files[0]}: no key {', '.join(columns.names())}",
                        hint=f"its rows have {', '.join(map(str, row.value))}",
                    )
                return


def read_json_row(
    value: Any, *, row_id: str, columns: Columns | None = None, root: Path | str | None = None
) -> Converted:
    """Return what a JSON file holds as a row; one in LLaVA's form, or plainly no row, comes back as it is.

    Args:
        value: The row.
        row_id: Its id, where it has none.
        columns: Which keys hold what; None to go by well-known ones.
        root: Folder that image paths start from; None leaves out the look for files that a question names.
    """
    found = _read_row(value, row_id=row_id, columns=columns)
    if root is not None and found.row is not None and (named := picture_in_text(found.row, root)) is not None:
        return Converted(defect=named)
    return found


def _read_row(value: Any, *, row_id: str, columns: Columns | None) -> Converted:
    if type(value) is not dict or (columns is None and _is_llava(value)):
        return Converted(value)
    if (media := media_key(value)) is not None:
        return Converted(defect=("media-unknown", f"{media}: {shown(value[media])}"))
    if columns is None:
        if (twice := pictures_twice(value)) is not None:
            return Converted(defect=twice)
        image = filled_picture_key(value)
        columns = _guess(tuple(value), image)
        if columns is None:
            return Converted(defect=("columns-unknown", f"it has {', '.join(map(shown, value)) or 'none'}"))
        if (image is None or not value[image]) and (unread := unread_picture(value, columns.names())) is not None:
            return Converted(defect=unread)
    return convert(value, columns, row_id=row_id)


@lru_cache(maxsize=1024)
def _guess(keys: tuple[str, ...], image: str | None) -> Columns | None:
    """Return what well-known keys mean.

    Args:
        keys: Of the row.
        image: The one of image and images that is not empty.
    """
    found = guess_columns(keys)
    return Columns(**{**found, **({"image": image} if image is not None else {})}) if found else None


def _is_llava(row: dict[str, Any]) -> bool:
    """Tell whether a row is in LLaVA's form, right or wrong: nothing in it needs to be converted."""
    turns = row.get("conversations")
    if type(turns) is not list or (not _LLAVA_KEYS.issuperset(row) and _has_other_keys(row)):
        # A wrong type under this key is the row's own defect, unless another key holds the conversation.
        return "conversations" in row and not turns and not any(name in row for name in CONVERSATION_NAMES[1:])
    is_marked = False
    for turn in turns:
        if type(turn) is not dict or type(text := turn.get("value")) is not str:
            return False
        if (role := turn.get("from")) == "human":
            is_marked = is_marked or may_hold_markers(text)
        elif role != "gpt":
            return False
        if len(turn) > 2 and filled_picture_key(turn) is not None:
            return False
    image = row.get("image")
    num_images = len(image) if type(image) is list else 1 if image else 0
    if is_marked and has_markers([turn["value"] for turn in turns if turn["from"] == "human"], num_images):
        return False
    if type(image) is str:
        return not holds_picture(image)
    return image is None or (
        type(image) is list and not any(type(one) is not str or holds_picture(one) for one in image)
    )


def _has_other_keys(row: dict[str, Any]) -> bool:
    """Tell whether a row has keys beside LLaVA's that mean something: a system text, pictures, video or sound."""
    if row.get("system") or media_key(row) is not None or pictures_twice(row) is not None:
        return True
    return not row.get("image") and (other_picture_key(row) is not None or unread_picture(row, _LLAVA_KEYS) is not None)
