"""The contract of every reader: rows in LLaVA's form, from whatever form the source has."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from croc_cli.sources.read.rows import Defect

TABLE_SUFFIXES = (".parquet", ".arrow", ".csv", ".tsv")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")


class SourceRow(NamedTuple):
    """One row of a source.

    Args:
        number: From 0, counted in the source; with the source's name, the row's key.
        row: In LLaVA's form; whatever the file holds where it is not.
        start: Its first byte in the source's one JSON file, where these bytes are the row; −1 where it is converted.
        end: The byte behind its last.
        defect: Why it could not be converted.
        contents: Bytes of each image, None for one that is a path; empty where all are paths.
        image_range: Offset and length in bytes, where the image lies in a tar.
    """

    number: int
    row: Any
    start: int = -1
    end: int = -1
    defect: Defect | None = None
    contents: tuple[bytes | None, ...] = ()
    image_range: tuple[int, int] | None = None


class Reader(ABC):
    """Reads one source, as often as it is asked to.

    Attributes:
        files: The source's annotation files.
        image_root: Folder that its rows' image paths start from; None where it has no images of its own.
    """

    files: tuple[Path, ...] = ()
    image_root: Path | None = None

    @abstractmethod
    def rows(self) -> Iterator[SourceRow]:
        """Yield every row in order.

        Raises:
            DataError: A file cannot be used as it is.
        """


def suffix_of(path: Path) -> str:
    """Return a file's ending in lower case: `QA.CSV` is a .csv."""
    return path.suffix.lower()
