"""Where each row of a user's LLaVA JSON lies, so that it is read in place: built once, then mapped from a cache."""

import os
import shutil
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.reading import TextError
from croc_cli.sources.read.cache import cache_folder, file_key, locked
from croc_cli.sources.read.json_rows import DataError, json_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CACHED_BYTES = 8 << 20
"""Files from this size on have their index kept; smaller ones are read faster than a cache is worth."""
_PURPOSE = "json-index-3"

_FORM = "expected a JSON list, or one JSON object a line"

RowCheck = Callable[[str, Any], tuple[int, int]]
"""Told (place for messages, row); returns (tokens, images), or raises DataError."""


@dataclass(frozen=True)
class JsonIndex:
    """Where the rows of a file are; N rows.

    Args:
        span: [N, 2] uint64, first byte of each row and the byte behind its last.
        tokens: [N] uint32, estimated length of its text in tokens.
        images: [N] uint8, how many images it shows.
    """

    span: "npt.NDArray[np.uint64]"
    tokens: "npt.NDArray[np.uint32]"
    images: "npt.NDArray[np.uint8]"

    def __len__(self) -> int:
        return len(self.span)


def open_json_index(path: Path, check: RowCheck) -> JsonIndex:
    """Return the index of a JSON list or JSONL; a large file's is built once, by the first process that asks.

    Args:
        path: The file.
        check: Called for every row while the index is built.

    Raises:
        DataError: The file or one of its rows is not as it should be.
    """
    if not path.is_file() or path.stat().st_size < CACHED_BYTES:
        return _build(path, check)
    folder = cache_folder() / "json-index" / file_key(path, _PURPOSE)
    with locked(folder.with_suffix(".lock")):
        with suppress(OSError, ValueError):
            return _open(folder)
        index = _build(path, check)
        _save(folder, index)
    return index


def _build(path: Path, check: RowCheck) -> JsonIndex:
    import numpy as np

    spans, tokens, images = array("Q"), array("I"), array("B")
    for number, value, start, end, line in json_rows(path):
        where = f"{path}, line {line}" if line else f"{path}, row {number}"
        if isinstance(value, ValueError):
            hint = (value.hint if isinstance(value, TextError) else None) or _FORM
            raise DataError(f"{where}, {value}", hint=hint)
        length, shown = check(where, value)
        spans.append(start)
        spans.append(end)
        tokens.append(length)
        images.append(min(shown, 255))
    span = np.frombuffer(spans, dtype=np.uint64).reshape(-1, 2) if spans else np.empty((0, 2), dtype=np.uint64)
    return JsonIndex(span, np.asarray(tokens, dtype=np.uint32), np.asarray(images, dtype=np.uint8))


def _save(folder: Path, index: JsonIndex) -> None:
    import numpy as np

    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        for name in ("span", "tokens", "images"):
            np.save(unfinished / f"{name}.npy", getattr(index, name))
        unfinished.rename(folder)
    except OSError:  # a cache that cannot be written costs time at the next start, and nothing else
        shutil.rmtree(unfinished, ignore_errors=True)


def _open(folder: Path) -> JsonIndex:
    import numpy as np

    return JsonIndex(
        **{
            name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)
            for name in ("span", "tokens", "images")
        }
    )
