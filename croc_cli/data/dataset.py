"""Training samples by index, from a mix or from a LLaVA JSON read in place: rows stay on disk until they are needed."""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from croc_cli.data.image import BytesImage, PathImage, TarImage
from croc_cli.data.sample import ImageRef, Sample, Turn
from croc_cli.pictures import ImageReading
from croc_cli.sources.read.columns import Converted
from croc_cli.sources.read.index import MixFolder
from croc_cli.sources.read.json_index import open_json_index
from croc_cli.sources.read.json_reader import read_json_row
from croc_cli.sources.read.json_rows import DataError, parse_row
from croc_cli.sources.read.rows import IMAGE_RANGE, ROW_DEFECTS, image_ranges, row_error
from croc_cli.sources.read.scan import estimate_tokens
from croc_cli.words import counted

__all__ = ["DataError", "Dataset", "LlavaJsonDataset", "MixDataset"]

_TRAINS_NOTHING = ("no-answer",)
"""Defects of rows that are counted as dropped while training runs, not refused before."""
HINT_TOKENS_PER_IMAGE = 576
"""Visual tokens of LLaVA-1.5's images; for sorting by length any number far above a short text's will do."""


class Dataset(Protocol):
    """Samples by index."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Return a sample."""

    def length_hint(self, index: int) -> int:
        """Return roughly how many tokens a sample has, without opening its images."""

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources that samples are from."""


class MixDataset:
    """The rows of a mix in its order.

    Args:
        folder: As `croc data mix` made it.
        lengths: [N] tokens of each row's text, where they were counted; default: the index's estimates.
        num_visual_tokens: Tokens of an image.
        reading: How picture files become RGB.

    Raises:
        UsageError: The folder holds no mix that can be read.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        lengths: npt.NDArray[np.uint32] | None = None,
        num_visual_tokens: int = HINT_TOKENS_PER_IMAGE,
        reading: ImageReading = "upright",
    ) -> None:
        self.mix = MixFolder(folder)
        self._index = self.mix.index
        self._sources, self._rows = self._index.source, self._index.row
        self._names = [source.name for source in self.mix.manifest.sources]
        self._roots = [str(root) for root in self.mix.image_roots]
        self._lengths = self._index.tokens if lengths is None else lengths
        self._num_visual_tokens = num_visual_tokens
        self._reading = reading

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        number = self._sources.item(index)
        source = self._names[number]
        row = self.mix.row(index)
        images = image_refs(row, self._roots[number], reading=self._reading)
        return Sample(f"{source}#{self._rows.item(index)}", _turns(row), images, source)

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the mix's sources."""
        return tuple(self._names)

    def length_hint(self, index: int) -> int:
        """Return how many tokens a sample has before it is cut: exactly where that was counted, else about."""
        return int(self._lengths[index]) + self._num_visual_tokens * int(self._index.images[index])

    @property
    def shows_images(self) -> npt.NDArray[np.bool_]:
        """[N] bool, whether a sample shows an image."""
        return self._index.images > 0


class LlavaJsonDataset:
    """Conversations as LLaVA's files have them, read in place.

    A row with the key `image` (one path, or a list of them) shows images; a row without it is text alone. Rows in other
    forms (`messages`, `images`, data URLs) are read as `croc data mix` reads them. A leading gpt turn is left out, as
    LLaVA does. Rows are checked when the file's index is made, images opened only when they are needed.

    Args:
        path: JSON list or JSONL.
        image_folder: Folder that the rows' paths start from; no path may lead out of it.
        num_samples: Samples to take, by a seeded draw; None for all, in the order of the file.
        seed: Seed of the draw.
        reading: How picture files become RGB.

    Raises:
        DataError: The file cannot be read, a row is not in LLaVA's form (says which row and key), or the file has fewer
            rows than `num_samples`.
    """

    def __init__(
        self,
        path: Path | str,
        image_folder: Path | str,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        reading: ImageReading = "upright",
    ) -> None:
        self.path = Path(path)
        self.image_folder = Path(image_folder)
        self._reading = reading
        hint = (
            f"`croc data verify {self.path} --image-folder {self.image_folder} --fix` writes a copy without such rows"
        )
        self._index = open_json_index(self.path, partial(_check_row, root=self.image_folder, hint=hint))
        self._file = -1
        if not len(self._index):
            raise DataError(f"{self.path}: no rows")
        self._drawn = self._draw(num_samples, seed) if num_samples is not None else None

    def __len__(self) -> int:
        return len(self._index) if self._drawn is None else len(self._drawn)

    def __getitem__(self, index: int) -> Sample:
        number = self._number(index)
        if self._file < 0:
            self._file = os.open(self.path, os.O_RDONLY)
        start, end = self._index.span[number].tolist()
        found = read_json_row(parse_row(os.pread(self._file, end - start, start)), row_id="")
        row = found.row
        if row is None:
            raise DataError(f"{self.path}, row {number}: it changed while it was trained on")
        # Ids of LLaVA's files repeat, so the row number makes them unique.
        place = f"{self.path}, row {number}"
        images = image_refs(row, str(self.image_folder), found.contents, place=place, reading=self._reading)
        return Sample(f"{row.get('id', '')}#{number}", _turns(row), images, self.path.name)

    @property
    def source_names(self) -> tuple[str, ...]:
        """The file's name."""
        return (self.path.name,)

    @property
    def row_numbers(self) -> npt.NDArray[np.int64]:
        """[N] int64, which row of the file each sample is."""
        return np.arange(len(self._index)) if self._drawn is None else self._drawn

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": -1}

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)

    def length_hint(self, index: int) -> int:
        """Return roughly how many tokens a sample has."""
        number = self._number(index)
        return int(self._index.tokens[number]) + HINT_TOKENS_PER_IMAGE * int(self._index.images[number])

    def _number(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} is not one of {len(self)}")
        return int(self._drawn[index]) if self._drawn is not None else index % len(self)

    def _draw(self, num_samples: int, seed: int) -> npt.NDArray[np.int64]:
        """Return which rows are taken, in the order of the file; the same for the same seed and file length."""
        if num_samples > len(self._index):
            raise DataError(
                f"{self.path}: {counted(len(self._index), 'row')}, fewer than num_samples = {num_samples}",
                hint="leave num_samples out to take all",
            )
        digest = hashlib.sha256(repr(("draw", seed)).encode()).digest()
        bits = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(len(self._index))
        return np.sort(np.argsort(bits, kind="stable")[:num_samples])


def image_refs(
    row: dict[str, Any],
    folder: str,
    contents: Sequence[bytes | None] = (),
    *,
    place: str = "",
    reading: ImageReading = "upright",
) -> tuple[ImageRef, ...]:
    """Return the images of a row that passed its check.

    Args:
        row: In LLaVA's form; with offset and length beside images that lie in a tar.
        folder: Where its paths start.
        contents: Bytes of each image, None for one that is a path; empty where all are paths.
        place: What messages call an image that has no path.
        reading: How picture files become RGB.
    """
    image = row.get("image")
    if image is None:
        return ()
    names: list[str] = image if type(image) is list else [image]
    if contents:
        return tuple(
            PathImage(f"{folder}/{name}", reading=reading)
            if content is None
            else BytesImage(f"{place}, image {number}", content, reading=reading)
            for number, (name, content) in enumerate(zip(names, contents, strict=True))
        )
    if IMAGE_RANGE in row and (ranges := image_ranges(row)) is not None:
        return tuple(
            TarImage(f"{folder}/{name}", *span, reading=reading) for name, span in zip(names, ranges, strict=True)
        )
    return tuple(PathImage(f"{folder}/{name}", reading=reading) for name in names)


def _turns(row: dict[str, Any]) -> tuple[Turn, ...]:
    turns = row["conversations"]
    return tuple(Turn(turn["from"], turn["value"]) for turn in turns[turns[0]["from"] == "gpt" :])


def _check_row(where: str, row: Any, *, root: Path, hint: str) -> tuple[int, int]:
    """Return a row's estimated tokens and its number of images, or raise DataError."""
    found: Converted = read_json_row(row, row_id="", root=root)
    error = found.defect or row_error(found.row)
    if found.row is None or (error is not None and error[0] not in _TRAINS_NOTHING):
        code, detail = error or ("row-not-object", "")
        raise DataError(f"{where}: {ROW_DEFECTS[code].text} ({detail})", hint=hint)
    image = found.row.get("image")
    num_images = 0 if image is None else len(image) if type(image) is list else 1
    return estimate_tokens([turn["value"] for turn in found.row["conversations"]]), num_images
