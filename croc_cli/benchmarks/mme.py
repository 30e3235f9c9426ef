"""MME: two yes-or-no questions a picture, fourteen subtasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, read_text, take, take_text
from croc_cli.benchmarks.files import Picture, read_parquet
from croc_cli.benchmarks.prompts import SHORT_ANSWER, YES_OR_NO
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.yes_no import mme_answer, mme_score, vlmevalkit_answer
from croc_cli.benchmarks.vlmevalkit import VARIANT

if TYPE_CHECKING:
    import numpy as np

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_RELEASE = "MME_Benchmark_release_version"
_IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")


class Mme(Benchmark):
    """MME (paper, Table 1): the perception total, at most 2,000."""

    name = "mme"
    title = "MME"
    folder = "MME"
    hub_splits = ("test",)
    split = "all"
    size = 2_374
    metric = "perception"
    layout = (f"{_RELEASE}/",)
    own_metrics: ClassVar[Mapping[str, str]] = dict.fromkeys(("sum", VARIANT), "perception + cognition")
    asks_otherwise = frozenset({VARIANT})
    variants: ClassVar[Mapping[str, str]] = {
        "sum": "perception and cognition together, at most 2,800",
        VARIANT: "their sum, by VLMEvalKit: one of the words yes and no anywhere counts; the question as it is",
    }

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        if not self.holds(root, _RELEASE) and (rows := read_parquet(root / self.folder, *self.hub_splits)) is not None:
            where = f"{root / self.folder}, row "
            return [self._hub_record(row, f"{where}{number}") for number, row in enumerate(rows)]
        folder = self.find(root, _RELEASE)
        records = []
        for subtask in (*PERCEPTION, *COGNITION):
            texts = folder / subtask / "questions_answers_YN"
            texts = texts if texts.is_dir() else folder / subtask
            for file in sorted(texts.glob("*.txt")):
                records += self._read_pair(file, subtask)
        if not records:
            raise self.missing(folder, "<subtask>/<picture>.txt")
        return records

    def row_key(self, row: Mapping[str, Any]) -> str:
        """Match by picture and question: LLaVA's question ids are the pictures' paths."""
        question = str(row.get("prompt") or "").removesuffix(SHORT_ANSWER).replace(YES_OR_NO, "")
        return _key(str(row["question_id"]), question)

    def unit(self, record: Record) -> str:
        """Keep the questions about a picture together."""
        return f"{record.extra['subtask']}/{record.extra['image']}"

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`."""
        official, kit = _Reading(records, map(mme_answer, answers)), _Reading(records, map(vlmevalkit_answer, answers))
        read = kit if self.variant == VARIANT else official
        return Score(
            self.metric,
            official.headline(PERCEPTION),
            [float(hit) for hit in read.hits],
            {
                "cognition": read.total(COGNITION),
                "sum": read.total((*PERCEPTION, *COGNITION)),
                "per_subtask": read.subtasks,
            },
            num_unparsable=read.answers.count("other"),
            variants={
                "sum": official.headline((*PERCEPTION, *COGNITION)),
                VARIANT: kit.headline((*PERCEPTION, *COGNITION)),
            },
        )

    def _hub_record(self, row: Mapping[str, Any], where: str) -> Record:
        question_id = str(take(row, "question_id", where))
        asked, subtask = take_text(row, "question", where), take_text(row, "category", where)
        image = question_id.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        label, picture = take_text(row, "answer", where).strip().lower(), take(row, "image", where)
        return self._record(question_id, asked, picture, label, {"subtask": subtask, "image": image})

    def _read_pair(self, file: Path, subtask: str) -> list[Record]:
        folder = file.parent.parent / "images" if file.parent.name == "questions_answers_YN" else file.parent
        places = [folder / f"{file.stem}{suffix}" for suffix in _IMAGE_SUFFIXES]
        image = next((place for place in places if place.exists()), places[0])
        question_id = f"{subtask}/{image.name}" if folder.name != "images" else f"{subtask}/images/{image.name}"
        records = []
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            fields = line.split("\t")
            if len(fields) != 2 or fields[1].strip().lower() not in ("yes", "no"):
                raise BenchmarkDataError(f"{file}, line {number}: not a question, a tab, and Yes or No")
            picture, label = Picture(image.name, image), fields[1].strip().lower()
            extra = {"subtask": subtask, "image": file.stem}
            records.append(self._record(question_id, fields[0], picture, label, extra))
        return records

    def _record(self, question_id: str, asked: str, picture: Any, label: str, extra: Mapping[str, Any]) -> Record:
        question = asked.replace(YES_OR_NO, "").rstrip()
        prompt = asked if self.variant == VARIANT else question + SHORT_ANSWER
        return Record(_key(question_id, question), question_id, prompt, picture, label, extra)


class _Reading:
    """Answers to MME as one rule reads them, with the scores of its subtasks.

    Attributes:
        answers: Yes, no or other.
        hits: Whether each is right.
        subtasks: By name, at most 200.
    """

    def __init__(self, records: Sequence[Record], answers: Iterable[str]) -> None:
        self.answers = list(answers)
        self.hits = [answer == record.answer for record, answer in zip(records, self.answers, strict=True)]
        by_image: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for record, hit in zip(records, self.hits, strict=True):
            by_image[record.extra["subtask"]][record.extra["image"]].append(hit)
        self.subtasks = {subtask: mme_score(list(images.values())) for subtask, images in by_image.items()}
        self._units = [
            (subtask, sum(hit), len(hit), all(hit)) for subtask, images in by_image.items() for hit in images.values()
        ]

    def total(self, subtasks: Sequence[str]) -> float:
        """Return the sum of the scores of subtasks."""
        return sum(self.subtasks.get(name, 0.0) for name in subtasks)

    def headline(self, subtasks: Sequence[str]) -> Headline:
        """Return the sum with its interval; pictures are drawn."""
        return Headline(self.total(subtasks), len(self._units), _sum_by_weights(self._units, subtasks))


def _key(question_id: str, question: str) -> str:
    subtask, picture = question_id.split("/", 1)[0], question_id.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{subtask}/{picture} {question.strip()}"


def _sum_by_weights(
    units: Sequence[tuple[str, int, int, bool]], subtasks: Sequence[str]
) -> Callable[[np.ndarray], float]:
    import numpy as np

    right = np.array([unit[1] for unit in units], dtype=np.float64)
    asked = np.array([unit[2] for unit in units], dtype=np.float64)
    both = np.array([unit[3] for unit in units], dtype=np.float64)
    chosen = [np.array([unit[0] == subtask for unit in units]) for subtask in subtasks]

    def statistic(weights: np.ndarray) -> float:
        total = 0.0
        for mask in chosen:
            drawn = weights[mask]
            if drawn.sum():
                total += 100 * float(drawn @ right[mask]) / float(drawn @ asked[mask])
                total += 100 * float(drawn @ both[mask]) / float(drawn.sum())
        return total

    return statistic
