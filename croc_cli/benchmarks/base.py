"""What all benchmarks have in common: records with prompts, answers matched with them, named variants."""

from __future__ import annotations

import copy
import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.files import Picture
from croc_cli.benchmarks.prompts import same_question
from croc_cli.benchmarks.score import Score
from croc_cli.errors import UsageError
from croc_cli.hub_clone import clone_files
from croc_cli.names import IMAGE_TOKEN

_DOCUMENT_IDS = ("question_id", "questionId", "index", "id")


@dataclass(frozen=True)
class Record:
    """One question of a benchmark.

    Attributes:
        key: Answers are matched by it; of two records that ask the same thing, the first has the first answer.
        question_id: As LLaVA's answer files hold it; not unique in some benchmarks.
        prompt: What the model is asked, without template. Pictures stand in front of it; where it holds as many
            `<image>` as there are pictures, they stand there.
        picture: The picture, the first of several, or None for a question about text alone.
        answer: The ground truth in the benchmark's own form, or None where labels are hidden.
        extra: What else the scoring needs. `answer_fields` are added to the question's answer rows; `saved_prompt` is
            what LLaVA writes as their prompt, where that is not `prompt`; `aliases` are ids that other tools use.
        more_pictures: Those after the first.
    """

    key: str
    question_id: str | int
    prompt: str
    picture: Picture | None
    answer: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    more_pictures: tuple[Picture, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All pictures, in the order in which they are shown."""
        return () if self.picture is None else (self.picture, *self.more_pictures)

    def parts(self) -> list[str | Picture]:
        """Return the texts and pictures of the question in the order in which they are shown."""
        texts = self.prompt.split(IMAGE_TOKEN)
        if not self.pictures or len(texts) != len(self.pictures) + 1:
            return [*self.pictures, self.prompt]
        shown: list[str | Picture] = [texts[0]]
        for picture, text in zip(self.pictures, texts[1:], strict=True):
            shown += [picture, text]
        return [part for part in shown if part != ""]


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
        layout: Its files below `folder`, alternatives with | between; a name that ends with / is a folder of pictures.
            The parquet files of the hub's data set serve instead.
        hub_splits: The split in that data set, under all names that it goes by; empty where its files are not named so.
        table: VLMEvalKit's file of its questions, which serves instead of all others; empty where there is none.
        own_metrics: Headlines of variants, where they are something else than `metric`.
        asks_otherwise: Variants that ask the same questions in other words, so that they need answers of their own.
        is_drawn: Whether croc draws its pictures and asks its questions itself, so that it needs no files.
        variants: What else can be asked for by name: other scorers' rules, other prompts, other splits.
        variant: The one that is asked for; None is the primary one, which reproduces the paper's LLaVA-1.5 row.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    folder: ClassVar[str]
    split: ClassVar[str]
    size: int
    metric: ClassVar[str]
    max_new_tokens: int = 128
    needs_judge: ClassVar[bool] = False
    hidden_labels: ClassVar[bool] = False
    layout: ClassVar[tuple[str, ...]] = ()
    hub_splits: ClassVar[tuple[str, ...]] = ()
    table: ClassVar[str] = ""
    own_metrics: ClassVar[Mapping[str, str]] = {}
    asks_otherwise: ClassVar[frozenset[str]] = frozenset()
    is_drawn: ClassVar[bool] = False
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

    @property
    def prompts(self) -> dict[str, str]:
        """What is kept beside answers about the words of their questions; empty for the primary ones."""
        return {"prompts": self.variant} if self.variant in self.asks_otherwise else {}

    def headline_of(self, score: Score) -> Score:
        """Return a score with the asked-for variant as its headline, where the variant is one of scoring."""
        if self.variant is None or self.variant not in score.variants:
            return score
        return replace(score.in_variant(self.variant), metric=self.metric_of(self.variant))

    def metric_of(self, variant: str) -> str:
        """Return what the headline of a variant is called."""
        return self.metric if variant == "primary" else f"{self.own_metrics.get(variant, self.metric)} ({variant})"

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

    def document_id(self, document: Mapping[str, Any]) -> Any:
        """Return the id in a document of lmms-eval's data set, or None where it has none."""
        return next((document[name] for name in _DOCUMENT_IDS if document.get(name) is not None), None)

    def as_asked(self, record: Record, prompt: str) -> Record | None:
        """Return a record as an answer's own prompt asked it, or None where that asked something else."""
        return record if same_question(prompt, record.prompt, record.extra.get("question")) else None

    def unit(self, record: Record) -> str:
        """Return what a record is drawn with when only some questions are asked: those of one unit stay together."""
        return record.key

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]] | None:
        """Return the rows of the file that the benchmark's server takes, or None where there is no server."""
        del records, answers
        return None

    def example(self, records: Sequence[Record], answers: Sequence[str]) -> tuple[Picture, dict[str, Any]] | None:
        """Return a picture with a question and its answer to be shown; None where there is none."""
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

    def lacks(self, root: Path) -> list[str]:
        """Return which files of the layout are not below a data root; an empty folder does not count as one."""
        folder = root / self.folder
        if self.table and (folder / self.table).is_file():
            return []
        wanted = self.layout or (f"*.parquet|{self.table}" if self.table else "*.parquet",)
        lacking = [entry for entry in wanted if not any(_is_there(folder / name) for name in entry.split("|"))]
        clone = clone_files(folder, ".parquet")
        if not lacking or not clone:
            return lacking
        if not self.hub_splits or any(file.is_of(split) for file in clone for split in self.hub_splits):
            return []
        return [f"{self.hub_splits[0]}-*.parquet"]

    def missing(self, folder: Path, *names: str) -> BenchmarkDataError:
        """Return the error of files that are not there."""
        looked = " or ".join(names)
        return BenchmarkDataError(
            f"{self.name}: {folder} holds no {looked}",
            hint=f"`croc data fetch eval:{self.name}` puts {self.title}'s files below data/eval; "
            "--data ROOT names another place",
        )


def _is_there(path: Path) -> bool:
    return next(path.iterdir(), None) is not None if path.is_dir() else path.is_file()
