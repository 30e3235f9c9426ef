"""What all benchmarks have in common: records with prompts, answers matched with them, named variants."""

from __future__ import annotations

import copy
import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.files import BenchmarkDataError, Picture
from croc_cli.benchmarks.score import Score
from croc_cli.errors import UsageError

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""LLaVA-1.5's suffix of questions with short answers."""
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."
"""LLaVA-1.5's suffix of multiple-choice questions."""

_SHOWN = 10


@dataclass(frozen=True)
class Record:
    """One question of a benchmark.

    Attributes:
        key: Answers are matched by it; of two records that ask the same thing, the first has the first answer.
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
        variants: What else can be asked for by name: other scorers' rules, other prompts, other splits.
        variant: The one that is asked for; None is the primary one, which reproduces the paper's LLaVA-1.5 row.
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
    variants: ClassVar[Mapping[str, str]] = {}
    variant: str | None = None

    def in_variant(self, name: str) -> Benchmark:
        """Return this benchmark in one of its variants.

        Raises:
            UsageError: It has no such variant; says which there are.
        """
        if name not in self.variants:
            near = difflib.get_close_matches(name, self.variants, n=1)
            known = ", ".join(self.variants) or "none"
            hint = f"did you mean {near[0]}?" if near else f"its variants: {known}"
            raise UsageError(f"{self.name} has no variant {name!r}", hint=hint)
        other = copy.copy(self)
        other.variant = name
        return other

    def headline_of(self, score: Score) -> Score:
        """Return a score with the asked-for variant as its headline, where the variant is one of scoring."""
        return score if self.variant not in score.variants else score.in_variant(str(self.variant))

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

    def holds(self, root: Path, *names: str) -> bool:
        """Return whether one of the files exists in the benchmark's folder."""
        return any((root / self.folder / name).exists() for name in names)

    def missing(self, folder: Path, *names: str) -> BenchmarkDataError:
        """Return the error of files that are not there."""
        looked = " or ".join(names)
        return BenchmarkDataError(
            f"{self.name}: {folder} holds no {looked}",
            hint=f"croc data fetch eval:{self.name} puts {self.title}'s files below data/eval; "
            "--data ROOT names another place",
        )


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
    known = Counter(record.key for record in records)
    texts: dict[str, list[str]] = {}
    repeated: list[str] = []
    unknown: list[str] = []
    for row in rows:
        key = benchmark.row_key(row)
        if key not in known:
            unknown.append(key)
        elif len(texts.setdefault(key, [])) == known[key]:
            repeated.append(key)
        else:
            texts[key].append(str(row["text"]))
    missing = [record.key for record in records if record.key not in texts]
    problems = {"missing": missing, "repeated": repeated, "unknown": unknown}
    found = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in problems.items() if keys]
    if found and not partial:
        raise BenchmarkDataError(
            f"{benchmark.name}: the answers do not fit the {len(records)} questions: {'; '.join(found)}",
            hint="answer the rest with the same croc eval command, or score what is there with --partial",
        )
    answered = [record for record in records if record.key in texts]
    waiting = {key: iter(said) for key, said in texts.items()}
    # The same question has the same greedy answer, so one answer serves where it was asked once.
    return answered, [next(waiting[record.key], texts[record.key][-1]) for record in answered]


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")
