"""Remembers what was found out about images, by path, size and change time: a check that was stopped goes on there."""

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from croc_cli.sources.read.cache import cache_folder
from croc_cli.sources.verify.image_check import ImageFacts, ImagePlace

_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
  name TEXT PRIMARY KEY, state TEXT, code TEXT, detail TEXT, width INTEGER, height INTEGER, sha256 TEXT,
  perceptual INTEGER
) WITHOUT ROWID
"""
_COLUMNS = "name, code, detail, width, height, sha256, perceptual"


class ImageCache:
    """A small database in croc's cache folder, which all mixes share; works without one where none can be written.

    Args:
        file: Left out: `images-2.sqlite` in the cache folder.
    """

    def __init__(self, file: Path | None = None) -> None:
        file = cache_folder() / "images-2.sqlite" if file is None else file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(file, timeout=30)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.execute(_SCHEMA)
        except (OSError, sqlite3.Error):
            self._base = sqlite3.connect(":memory:")
            self._base.execute(_SCHEMA)

    def find(self, place: ImagePlace, *, perceptual: bool) -> ImageFacts | None:
        """Return what is known of an image, unless its file changed since."""
        if place.content is not None or (state := file_state(place)) is None:
            return None
        row = self._base.execute(f"SELECT {_COLUMNS}, state FROM images WHERE name = ?", (_key(place),)).fetchone()
        if row is None or row[-1] != state or (perceptual and row[-2] == -1 and row[3]):
            return None
        return ImageFacts(place.name, *row[1:-1])

    def store(self, found: Iterable[tuple[ImagePlace, ImageFacts]]) -> None:
        """Remember some images; a failure to write costs time at the next check, and nothing else."""
        rows = [
            (_key(place), state, facts.code, facts.detail, facts.width, facts.height, facts.sha256, facts.perceptual)
            for place, facts in found
            if place.content is None and (state := file_state(place)) is not None
        ]
        with contextlib.suppress(sqlite3.Error), self._base:
            self._base.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Close the database."""
        self._base.close()


def file_state(place: ImagePlace) -> str | None:
    """Return size and change time of an image's file, or None where it is missing."""
    try:
        state = os.stat(place.file)
    except OSError:
        return None
    return f"{state.st_size} {state.st_mtime_ns}"


def _key(place: ImagePlace) -> str:
    return f"{os.path.abspath(place.name)}@{place.offset}"
