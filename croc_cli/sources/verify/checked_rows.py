"""The rows of whatever is to be checked or looked at: a mix, or any form of source."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from croc_cli.sources.read.index import ROWS_NAME, MixFolder
from croc_cli.sources.read.json_rows import parse_row, unreadable
from croc_cli.sources.read.manifest import MANIFEST_NAME
from croc_cli.sources.read.reader import Reader
from croc_cli.sources.read.readers import open_source
from croc_cli.sources.read.rows import IMAGE_RANGE, Defect, image_ranges
from croc_cli.sources.read.spec import SourceSpec
from croc_cli.sources.verify.image_check import ImagePlace


class CheckedRow(NamedTuple):
    """One row with where it stands.

    Args:
        number: Its place in the file, from 0; for a mix its place in rows.jsonl.
        key: As messages name it: source and row.
        row: In LLaVA's form; whatever the file holds where it is not.
        root: Folder that its image paths start from.
        defect: Why it could not be read.
        contents: Bytes of each image, None for one that is a path; empty where all are paths.
        image_range: Offset and length, where its image lies in a tar.
    """

    number: int
    key: str
    row: Any
    root: str
    defect: Defect | None = None
    contents: tuple[bytes | None, ...] = ()
    image_range: tuple[int, int] | None = None

    def images(self) -> list[tuple[str, ImagePlace]]:
        """Return (path from the root, place) of each image of a row whose image key is as it should be."""
        image = self.row.get("image") if isinstance(self.row, dict) and self.defect is None else None
        if not image:
            return []
        names = [name for name in (image if isinstance(image, list) else [image]) if isinstance(name, str)]
        if self.contents:
            return [
                (self.key, ImagePlace(f"{self.key}, image {place} (in the data)", content=content))
                if content is not None
                else (name, ImagePlace(f"{self.root}/{name}"))
                for place, (name, content) in enumerate(zip(names, self.contents, strict=True))
            ]
        if self.image_range is not None:
            return [(image, ImagePlace(f"{self.root}/{image}", *self.image_range))]
        if IMAGE_RANGE in self.row and (ranges := image_ranges(self.row)) is not None:
            return [
                (name, ImagePlace(f"{self.root}/{name}", *place)) for name, place in zip(names, ranges, strict=True)
            ]
        return [(name, ImagePlace(f"{self.root}/{name}")) for name in names]


class CheckedData:
    """An open data set.

    Args:
        path: A mix's folder, or a file or folder of any form that a source may have.
        image_folder: Where image paths start from, for what is not a mix.

    Attributes:
        mix: The open mix, or None.
        reader: The source's reader, or None for a mix.

    Raises:
        UsageError: There is nothing that can be read.
    """

    def __init__(self, path: Path, image_folder: Path | None = None) -> None:
        self.path = path = path if path.name else Path(os.path.abspath(path))  # `.` has no name to put a list beside
        self.mix = MixFolder(path) if (path / MANIFEST_NAME).is_file() else None
        self.reader: Reader | None = None
        if self.mix is None:
            self.reader = open_source(SourceSpec(path.stem, path, image_root=image_folder))

    @property
    def data_root(self) -> Path:
        """The folder that holds images and mixes, as far as can be told."""
        if self.mix is not None:
            return self.mix.data_root
        root = self.reader.image_root if self.reader is not None else None
        return root if root is not None else self.path.parent

    @property
    def num_rows(self) -> int | None:
        """How many rows there are, where that is known without reading them."""
        return len(self.mix) if self.mix is not None else None

    def rows(self) -> Iterator[CheckedRow]:
        """Yield every row in the order of the file, which for a mix is that of its sources."""
        if self.mix is not None:
            yield from self._mix_rows(self.mix)
        elif self.reader is not None:
            root = os.path.abspath(self.reader.image_root or self.path.parent)
            for item in self.reader.rows():
                key = f"row {item.number}"
                yield CheckedRow(item.number, key, item.row, root, item.defect, item.contents, item.image_range)

    def _mix_rows(self, mix: MixFolder) -> Iterator[CheckedRow]:
        import numpy as np

        order = np.argsort(mix.index.offset, kind="stable")
        sources, numbers = mix.index.source[order], mix.index.row[order]
        roots = [os.path.abspath(root) for root in mix.image_roots]
        names = [source.name for source in mix.manifest.sources]
        try:
            with (mix.folder / ROWS_NAME).open("rb") as file:
                for number, line in enumerate(file):
                    if number >= len(order):
                        break
                    source = int(sources[number])
                    key = f"{names[source]}#{int(numbers[number])}"
                    try:
                        row, defect = parse_row(line), None
                    except ValueError as error:
                        row, defect = None, ("json-broken", str(error))
                    yield CheckedRow(number, key, row, roots[source], defect)
        except OSError as error:
            raise unreadable(mix.folder / ROWS_NAME, error) from error
