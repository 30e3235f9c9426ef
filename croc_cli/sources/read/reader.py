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
        start: Its first byte in the source's one JSON file; −1 where it is converted.
        end: The byte behind its last.
        defect: Why it could not be converted.
        image: The image's own bytes, where they lie in the table and were asked for.
        image_range: Offset and length in bytes, where the image lies in a tar.
    """

    number: int
    row: Any
    start: int = -1
    end: int = -1
    defect: Defect | None = None
    image: bytes | None = None
    image_range: tuple[int, int] | None = None


class Reader(ABC):
    """Reads one source, as often as it is asked to.

    Attributes:
        files: The source's annotation files.
        image_root: Folder that its rows' image paths start from; None where it has no images of its own.
        in_place: Whether a row's bytes in the file are the row, so that it can be copied unparsed.
        embeds_images: Whether images lie in the table.
    """

    files: tuple[Path, ...] = ()
    image_root: Path | None = None
    in_place: bool = False
    embeds_images: bool = False

    @abstractmethod
    def rows(self, *, with_images: bool = False) -> Iterator[SourceRow]:
        """Yield every row in order.

        Args:
            with_images: Also give the bytes of images that lie in a table.

        Raises:
            DataError: A file cannot be used as it is.
        """
