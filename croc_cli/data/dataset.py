"""Samples from LLaVA's data files: a JSON list or JSONL of conversations, and a folder of images."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from croc_cli.data.conversation import SampleError, split_images
from croc_cli.data.image import PathImage
from croc_cli.data.sample import Sample, Turn
from croc_cli.errors import UsageError

HINT_TOKENS_PER_IMAGE = 576
"""Visual tokens of LLaVA-1.5's images; for sorting by length any number far above a short text's will do."""

HINT_BYTES_PER_TOKEN = 4


class DataError(UsageError):
    """A data file that cannot be used as it is; exit code 2."""


class Dataset(Protocol):
    """Samples by index."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Return a sample."""

    def length_hint(self, index: int) -> int:
        """Return roughly how many tokens a sample has, without opening its images."""


class LlavaJsonDataset:
    """Conversations as LLaVA's files have them.

    A row with the key `image` (one path, or a list of them) shows images; a row without it is text alone. A leading gpt
    turn is left out, as LLaVA does. Rows are checked when the file is read, images opened only when they are needed.

    Args:
        path: JSON list or JSONL.
        image_folder: Folder that the rows' paths start from; no path may lead out of it.
        num_samples: Samples to take, by a seeded draw; None for all, in the order of the file.
        seed: Seed of the draw.

    Raises:
        DataError: The file cannot be read, a row is not in LLaVA's form (says which row and key), or the file has fewer
            rows than `num_samples`.
    """

    def __init__(
        self, path: Path | str, image_folder: Path | str, *, num_samples: int | None = None, seed: int = 0
    ) -> None:
        self.path = Path(path)
        self.image_folder = Path(image_folder)
        self._samples = [_read_row(row, number, where, self) for number, where, row in _rows(self.path)]
        if not self._samples:
            raise DataError(f"{self.path}: no rows")
        if num_samples is not None:
            self._samples = [self._samples[index] for index in self._draw(num_samples, seed)]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def length_hint(self, index: int) -> int:
        """Return roughly how many tokens a sample has."""
        sample = self._samples[index]
        num_bytes = sum(len(turn.text.encode()) for turn in sample.turns)
        return num_bytes // HINT_BYTES_PER_TOKEN + HINT_TOKENS_PER_IMAGE * len(sample.images)

    def _draw(self, num_samples: int, seed: int) -> list[int]:
        """Return which rows are taken, in the order of the file; the same for the same seed and file length."""
        if num_samples > len(self._samples):
            raise DataError(
                f"{self.path}: {len(self._samples)} rows, fewer than num_samples = {num_samples}",
                hint="leave num_samples out to take all",
            )
        digest = hashlib.sha256(repr(("draw", seed)).encode()).digest()
        bits = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(len(self._samples))
        return sorted(np.argsort(bits, kind="stable")[:num_samples].tolist())


def _rows(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Yield (row number from 0, where it stands, row) of a JSON list or JSONL file."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", hint="data.<stage>.path names a LLaVA JSON list or JSONL") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if content.lstrip()[:1] == "[":
        try:
            rows = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
        del content
        for number, row in enumerate(rows):
            yield number, f"{path}, row {number}", row
        return
    number = 0
    for line_number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {line_number}: not JSON: {error.msg}", hint=_content_hint(line)) from error
        yield number, f"{path}, line {line_number}", row
        number += 1


def _content_hint(line: str) -> str:
    start = line.lstrip()[:40].lower()
    if start.startswith(("<!doctype", "<html")):
        return "this is a web page, not the data file; download it again"
    if start.startswith("version https://git-lfs"):
        return "this is a Git LFS pointer; download the file itself"
    return "expected a JSON list, or one JSON object a line"


def _read_row(row: Any, number: int, where: str, dataset: LlavaJsonDataset) -> Sample:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, got {type(row).__name__}")
    turns = _read_turns(row, where)
    images = tuple(PathImage(dataset.image_folder / name) for name in _read_image_names(row, where))
    try:
        split_images(turns, num_images=len(images))
    except SampleError as error:
        raise DataError(f"{where}, key conversations: {error}") from error
    # Ids of LLaVA's files repeat, so the row number makes them unique.
    return Sample(id=f"{row.get('id', '')}#{number}", turns=turns, images=images)


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


def _read_image_names(row: dict[str, Any], where: str) -> list[PurePosixPath]:
    if "image" not in row:
        return []
    names = row["image"] if isinstance(row["image"], list) else [row["image"]]
    for name in names:
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{where}, key image: expected a path or a list of paths, got {_shown(name)}",
                hint="a row of text alone has no image key",
            )
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise DataError(
                f"{where}, key image: {name!r} does not stay inside the image folder",
                hint="paths are relative to image_folder, without '..' or backslashes",
            )
    if not names:
        raise DataError(f"{where}, key image: the list is empty", hint="a row of text alone has no image key")
    return [PurePosixPath(name) for name in names]


def _shown(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return "nothing" if value is None else shown if len(shown) <= 60 else shown[:57] + "..."
