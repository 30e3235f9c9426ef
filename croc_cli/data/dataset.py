"""Training samples by index, from a mix or from a LLaVA JSON read in place: rows stay on disk until they are needed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from croc_cli.data.conversation import SampleError, split_images
from croc_cli.data.image import PathImage, TarImage
from croc_cli.data.sample import ImageRef, Sample, Turn
from croc_cli.pictures import ImageReading
from croc_cli.sources.read.index import IMAGE_RANGE, MixFolder
from croc_cli.sources.read.json_index import open_json_index
from croc_cli.sources.read.json_rows import DataError, parse_row
from croc_cli.sources.read.rows import leaves_folder
from croc_cli.sources.read.scan import estimate_tokens

__all__ = ["DataError", "Dataset", "LlavaJsonDataset", "MixDataset"]

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


class MixDataset:
    """The rows of a mix in its order.

    Args:
        folder: As `croc data mix` made it.
        lengths: [N] tokens of each row's text, where they were counted; left out: the index's estimates.
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
        row = parse_row(self.mix.read(index))
        number = self._sources.item(index)
        turns = [Turn(turn["from"], turn["value"]) for turn in row["conversations"]]
        if turns[0][0] == "gpt":
            del turns[0]
        name = f"{self._names[number]}#{self._rows.item(index)}"
        return Sample(name, tuple(turns), image_refs(row, self._roots[number], self._reading))

    def length_hint(self, index: int) -> int:
        """Return how many tokens a sample has before it is cut: exactly where that was counted, else about."""
        return int(self._lengths[index]) + self._num_visual_tokens * int(self._index.images[index])

    @property
    def shows_images(self) -> npt.NDArray[np.bool_]:
        """[N] bool, whether a sample shows an image."""
        return self._index.images > 0


class LlavaJsonDataset:
    """Conversations as LLaVA's files have them, read in place.

    A row with the key `image` (one path, or a list of them) shows images; a row without it is text alone. A leading gpt
    turn is left out, as LLaVA does. Rows are checked when the file's index is made, images opened only when they are
    needed.

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
        self._index = open_json_index(self.path, _check_row)
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
        row = json.loads(os.pread(self._file, end - start, start))
        turns = _read_turns(row, f"{self.path}, row {number}")
        # Ids of LLaVA's files repeat, so the row number makes them unique.
        return Sample(f"{row.get('id', '')}#{number}", turns, image_refs(row, str(self.image_folder), self._reading))

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
                f"{self.path}: {len(self._index)} rows, fewer than num_samples = {num_samples}",
                hint="leave num_samples out to take all",
            )
        digest = hashlib.sha256(repr(("draw", seed)).encode()).digest()
        bits = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(len(self._index))
        return np.sort(np.argsort(bits, kind="stable")[:num_samples])


def image_refs(row: dict[str, Any], folder: str, reading: ImageReading = "upright") -> tuple[ImageRef, ...]:
    """Return the images of a row that passed its check.

    Args:
        row: In LLaVA's form; with offset and length beside an image that lies in a tar.
        folder: Where its paths start.
        reading: How picture files become RGB.
    """
    image = row.get("image")
    if image is None:
        return ()
    if IMAGE_RANGE in row:
        offset, length = row[IMAGE_RANGE]
        return (TarImage(f"{folder}/{image}", offset, length, reading=reading),)
    if type(image) is str:
        return (PathImage(f"{folder}/{image}", reading=reading),)
    return tuple(PathImage(f"{folder}/{name}", reading=reading) for name in image)


def _check_row(number: int, where: str, row: Any) -> tuple[int, int]:
    """Return a row's estimated tokens and its number of images, or raise DataError."""
    del number
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, got {type(row).__name__}")
    turns = _read_turns(row, where)
    num_images = _check_image_names(row, where)
    try:
        split_images(turns, num_images=num_images)
    except SampleError as error:
        raise DataError(f"{where}, key conversations: {error}") from error
    return estimate_tokens([turn.text for turn in turns]), num_images


def _read_turns(row: dict[str, Any], where: str) -> tuple[Turn, ...]:
    conversations = row.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        raise DataError(f"{where}, key conversations: expected a list of turns, got {_shown(conversations)}")
    turns = []
    for position, turn in enumerate(conversations):
        key = f"{where}, key conversations[{position}]"
        if not isinstance(turn, dict):
            raise DataError(f"{key}: expected an object with from and value, got {_shown(turn)}")
        role, text = turn.get("from"), turn.get("value")
        if role not in ("human", "gpt"):
            raise DataError(f"{key}.from: expected human or gpt, got {_shown(role)}")
        if not isinstance(text, str):
            raise DataError(f"{key}.value: expected text, got {_shown(text)}")
        turns.append(Turn(role, text))
    return tuple(turns[1:] if turns[0].role == "gpt" else turns)


def _check_image_names(row: dict[str, Any], where: str) -> int:
    """Return how many images a row names, or raise DataError."""
    if "image" not in row:
        return 0
    names = row["image"] if isinstance(row["image"], list) else [row["image"]]
    for name in names:
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{where}, key image: expected a path or a list of paths, got {_shown(name)}",
                hint="a row of text alone has no image key",
            )
        if leaves_folder(name):
            raise DataError(
                f"{where}, key image: {name!r} does not stay inside the image folder",
                hint="paths are relative to image_folder, without '..' or backslashes",
            )
    if not names:
        raise DataError(f"{where}, key image: the list is empty", hint="a row of text alone has no image key")
    return len(names)


def _shown(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return "nothing" if value is None else shown if len(shown) <= 60 else shown[:57] + "..."
