"""What all benchmarks have in common: records with prompts, answers matched with them, and scores with an interval."""

from __future__ import annotations

import base64
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from croc_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""LLaVA-1.5's suffix of questions with short answers."""
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."
"""LLaVA-1.5's suffix of multiple-choice questions."""

_NUM_RESAMPLES = 1000
_SHOWN = 10


class BenchmarkDataError(UsageError):
    """A benchmark's files or an answer file are not as they should be; exit code 2."""


@dataclass(frozen=True)
class Picture:
    """One picture of a record, opened only when it is needed.

    Attributes:
        name: For messages; the file name, or the place in a table.
        path: The file, or None.
        data: The file's bytes, or None.
    """

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_base64(cls, name: str, text: str) -> Picture:
        """Return the picture that a TSV cell holds."""
        return cls(name, data=base64.b64decode(text))

    def open(self) -> Image.Image:
        """Open the picture.

        Raises:
            OSError: It is missing or no picture.
        """
        from PIL import Image

        return Image.open(self.path if self.path is not None else io.BytesIO(self.data or b""))


@dataclass(frozen=True)
class Record:
    """One question of a benchmark.

    Attributes:
        key: Unique within the benchmark; answers are matched by it.
        question_id: As LLaVA's answer files hold it; not unique in some benchmarks.
        prompt: What the model is asked, without image placeholder and template.
        picture: The picture, or None for a question about text alone.
        answer: The ground truth in the benchmark's own form, or None where labels are hidden.
        extra: What else the scoring needs; `answer_fields` are added to the question's answer rows.
    """

    key: str
    question_id: str | int
    prompt: str
    picture: Picture | None
    answer: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """What a benchmark makes of a list of answers.

    Attributes:
        metric: Name of the headline.
        value: The headline, in the units of the published tables.
        per_item: One number for each record, in their order: the item's own score.
        parts: Further metrics: per category, per subset, totals.
        num_unparsable: Answers that the benchmark's rule could not read.
        variants: The headline as other scorers in the wild compute it.
        num_units: Units that the bootstrap draws: questions, or groups of them that belong together.
        statistic: The headline as a function of the units' weights, [num_units] float; None gives no interval.
    """

    metric: str
    value: float
    per_item: Sequence[float]
    parts: Mapping[str, Any] = field(default_factory=dict)
    num_unparsable: int = 0
    variants: Mapping[str, float] = field(default_factory=dict)
    num_units: int = 0
    statistic: Callable[[np.ndarray], float] | None = None

    def interval(self, *, seed: int = 0) -> tuple[float, float] | None:
        """Return the 95 % bootstrap interval of the headline, or None where there is nothing to draw from."""
        if self.statistic is None or self.num_units < 2:
            return None
        import numpy as np

        rng = np.random.default_rng(seed)
        size = self.num_units
        drawn = [
            self.statistic(np.bincount(rng.integers(size, size=size), minlength=size).astype(np.float64))
            for _ in range(_NUM_RESAMPLES)
        ]
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)


def weighted_mean(values: Sequence[float], *, scale: float = 100.0) -> Callable[[np.ndarray], float]:
    """Return the statistic of a headline that is a mean over units."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)

    def statistic(weights: np.ndarray) -> float:
        return scale * float(weights @ array) / float(weights.sum())

    return statistic


class Benchmark(ABC):
    """One benchmark: where its files lie, what is asked, and how answers are scored.

    Attributes:
        name: On the command line and in file names.
        title: In tables.
        folder: Below the data root, as LLaVA's evaluation guide lays it out.
        split: Which split the headline is about.
        size: Questions of that split.
        metric: The headline.
        max_new_tokens: Of an answer (LLaVA's scripts; lmms-eval's settings where LLaVA has none).
        needs_judge: Whether a judge model scores the answers.
        hidden_labels: Whether the split's labels are at a server only.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    folder: ClassVar[str]
    split: ClassVar[str]
    size: ClassVar[int]
    metric: ClassVar[str]
    max_new_tokens: ClassVar[int] = 128
    needs_judge: ClassVar[bool] = False
    hidden_labels: ClassVar[bool] = False

    @abstractmethod
    def read(self, root: Path) -> list[Record]:
        """Return the records below a data root.

        Raises:
            BenchmarkDataError: A file is missing, or a record lacks a field.
        """

    @abstractmethod
    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Score answers, one for each record and in their order; raw texts, as the model gave them."""

    def row_key(self, row: Mapping[str, Any]) -> str:
        """Return the key of the record that an answer row belongs to."""
        return str(row["question_id"])

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]] | None:
        """Return the rows of the file that the benchmark's server takes, or None where there is no server."""
        del records, answers
        return None

    def find(self, root: Path, *names: str) -> Path:
        """Return the first of the files that exists in the benchmark's folder.

        Raises:
            BenchmarkDataError: None does.
        """
        folder = root / self.folder
        for name in names:
            if (folder / name).exists():
                return folder / name
        raise self.missing(folder, *names)

    def missing(self, folder: Path, *names: str) -> BenchmarkDataError:
        """Return the error of files that are not there."""
        looked = " or ".join(names)
        return BenchmarkDataError(
            f"{self.name}: {folder} holds no {looked}",
            hint=f"put {self.title}'s files there as LLaVA's evaluation guide does, or name another --data ROOT",
        )


def take(record: Mapping[str, Any], name: str, where: str) -> Any:
    """Return a field of a record.

    Raises:
        BenchmarkDataError: The record has no such field; says which record.
    """
    if name not in record:
        raise BenchmarkDataError(f"{where}: no field {name!r}", hint=f"it has {', '.join(map(str, record)) or 'none'}")
    return record[name]


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        BenchmarkDataError: It is no JSON; says where.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BenchmarkDataError(f"{file}: not JSON: {error}", hint="fetch the file again") from error


def read_json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place for messages, object) of every line.

    Raises:
        BenchmarkDataError: A line is no JSON object; says which.
    """
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise BenchmarkDataError(f"{file}, line {number}: not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise BenchmarkDataError(f"{file}, line {number}: not a JSON object")
            yield f"{file}, line {number}", row


def read_parquet(folder: Path) -> list[dict[str, Any]] | None:
    """Return the rows of the parquet files of a hub data set in a folder, in order of name, or None without any."""
    files = sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])
    if not files:
        return None
    from pyarrow import parquet

    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def parquet_picture(name: str, cell: Any) -> Picture:
    """Return the picture of a parquet cell: bytes, or the struct of bytes and path that the datasets library writes."""
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    return Picture(name, data=bytes(data or b""))


def match_answers(
    benchmark: Benchmark, records: Sequence[Record], rows: Sequence[Mapping[str, Any]], *, partial: bool = False
) -> tuple[list[Record], list[str]]:
    """Match answer rows with records.

    Args:
        benchmark: Whose records these are.
        records: All of them.
        rows: Of an answer file in LLaVA's format.
        partial: Score what is there, instead of refusing an incomplete file.

    Returns:
        The answered records in their order, and their answers.

    Raises:
        BenchmarkDataError: Answers are missing, repeated or unknown, with counts and the first ten.
    """
    known = {record.key for record in records}
    texts: dict[str, str] = {}
    repeated: list[str] = []
    unknown: list[str] = []
    for row in rows:
        key = benchmark.row_key(row)
        if key not in known:
            unknown.append(key)
        elif key in texts:
            repeated.append(key)
        else:
            texts[key] = str(row["text"])
    missing = [record.key for record in records if record.key not in texts]
    problems = {"missing": missing, "repeated": repeated, "unknown": unknown}
    found = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in problems.items() if keys]
    if found and not partial:
        raise BenchmarkDataError(
            f"{benchmark.name}: the answers do not fit the {len(records)} questions: {'; '.join(found)}",
            hint="answer the rest with the same croc eval command, or score what is there with --partial",
        )
    answered = [record for record in records if record.key in texts]
    return answered, [texts[record.key] for record in answered]


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")
