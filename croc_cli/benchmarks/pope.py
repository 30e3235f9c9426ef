"""POPE: is there an object in the picture? Three ways of choosing the objects that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, read_json_lines, take, take_number, take_text
from croc_cli.benchmarks.files import Picture, read_parquet
from croc_cli.benchmarks.prompts import SHORT_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.yes_no import binary_metrics, lmms_answer, pope_answer, vlmevalkit_answer
from croc_cli.benchmarks.vlmevalkit import VARIANT

if TYPE_CHECKING:
    import numpy as np

SUBSETS = ("adversarial", "popular", "random")
_FIRST_ID = {"adversarial": 0, "popular": 20_000_000, "random": 10_000_000}
_HUB_SPLITS = ("test",)
_AVERAGED = ("accuracy", "precision", "recall", "f1", "yes_ratio")


class Pope(Benchmark):
    """POPE on COCO (paper, Table 1): the mean F1 of its three subsets."""

    name = "pope"
    title = "POPE"
    folder = "pope"
    split = "random, popular, adversarial"
    size = 8_910
    metric = "mean F1"
    layout = (*(f"coco/coco_pope_{subset}.json" for subset in SUBSETS), "val2014/")
    variants: ClassVar[Mapping[str, str]] = {
        "by-id": "answers pair with labels by question id; the reference pairs them by order",
        "pooled": "lmms-eval's F1: all three subsets together, answers that are not exactly yes or no left out",
        VARIANT: "VLMEvalKit's F1 of all rows together; one of the two words anywhere counts; the question alone",
    }
    own_metrics: ClassVar[Mapping[str, str]] = {VARIANT: "F1"}
    asks_otherwise = frozenset({VARIANT})

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        files = [f"coco/coco_pope_{subset}.json" for subset in SUBSETS]
        if not self.holds(root, *files) and (rows := read_parquet(root / self.folder, *_HUB_SPLITS)) is not None:
            return self._read_hub(rows, root / self.folder)
        records = []
        for subset in SUBSETS:
            file = self.find(root, f"coco/coco_pope_{subset}.json")
            for position, (where, row) in enumerate(read_json_lines(file), start=1):
                image = take_text(row, "image", where)
                picture = Picture(image, path=root / self.folder / "val2014" / image)
                number = take_number(row, "question_id", where) if self.variant == "by-id" else position
                question_id = _FIRST_ID[subset] + number
                prompt = take_text(row, "text", where) + self._suffix
                label = take_text(row, "label", where)
                extra = {"subset": subset, "aliases": [f"{subset}/{row.get('question_id')}"]}
                records.append(Record(str(question_id), question_id, prompt, picture, label, extra))
        return records

    @property
    def _suffix(self) -> str:
        return "" if self.variant == VARIANT else SHORT_ANSWER

    def document_id(self, document: Mapping[str, Any]) -> str:
        """See `Benchmark.document_id`; POPE's ids count within a subset."""
        return f"{document.get('category')}/{document.get('question_id')}"

    def _read_hub(self, rows: list[dict[str, Any]], folder: Path) -> list[Record]:
        records = []
        positions: Counter[str] = Counter()
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            subset = take_text(row, "category", where)
            if subset not in SUBSETS:
                raise BenchmarkDataError(f"{where}: category {subset!r}", hint=f"POPE has {', '.join(SUBSETS)}")
            positions[subset] += 1
            its_number = take_number(row, "question_id", where) if self.variant == "by-id" else positions[subset]
            question_id = _FIRST_ID[subset] + its_number
            prompt, label = (
                take_text(row, "question", where) + self._suffix,
                take_text(row, "answer", where).strip().lower(),
            )
            picture = take(row, "image", where)
            extra = {"subset": subset, "aliases": [f"{subset}/{row.get('question_id')}"]}
            records.append(Record(str(question_id), question_id, prompt, picture, label, extra))
        return sorted(records, key=lambda record: SUBSETS.index(record.extra["subset"]))

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`."""
        read = [pope_answer(answer) for answer in answers]
        per_subset = {}
        for subset in SUBSETS:
            chosen = [index for index, record in enumerate(records) if record.extra["subset"] == subset]
            if chosen:
                per_subset[subset] = binary_metrics(
                    [read[index] for index in chosen], [records[index].answer for index in chosen]
                )
        mean = {
            name: sum(metrics[name] for metrics in per_subset.values()) / max(1, len(per_subset)) for name in _AVERAGED
        }
        exact = [lmms_answer(answer) for answer in answers]
        kept = [index for index, answer in enumerate(exact) if answer != "other"]
        pooled = binary_metrics([exact[index] for index in kept], [records[index].answer for index in kept])
        kit = [vlmevalkit_answer(answer) for answer in answers]
        together = binary_metrics(
            ["yes" if answer == "yes" else "no" for answer in kit], [record.answer for record in records]
        )
        is_kit = self.variant == VARIANT
        return Score(
            self.metric,
            Headline(100 * mean["f1"], len(records), _mean_f1(records, read)),
            [float(answer == record.answer) for record, answer in zip(records, kit if is_kit else read, strict=True)],
            {"per_subset": per_subset, "mean": mean},
            num_unparsable=(kit if is_kit else exact).count("other"),
            variants={
                "pooled": Headline(100 * pooled["f1"], len(records), _mean_f1(records, exact, pooled=True)),
                VARIANT: Headline(100 * together["f1"], len(records), _f1_of_all(records, kit)),
            },
        )


def _f1_of_all(records: Sequence[Record], read: Sequence[str]) -> Callable[[np.ndarray], float]:
    """Return VLMEvalKit's F1 by weights: an answer that says neither is not yes."""
    return _mean_f1(records, ["yes" if answer == "yes" else "no" for answer in read], pooled=True)


def _mean_f1(records: Sequence[Record], read: Sequence[str], *, pooled: bool = False) -> Callable[[np.ndarray], float]:
    import numpy as np

    said = np.array([answer == "yes" for answer in read])
    counted = np.array([answer in ("yes", "no") for answer in read])
    true = np.array([record.answer == "yes" for record in records])
    names = [("all",)] * len(records) if pooled else [(record.extra["subset"],) for record in records]
    subsets = [np.array([name == subset for name in names]) for subset in sorted(set(names))]

    def statistic(weights: np.ndarray) -> float:
        values = []
        for chosen in subsets:
            if not chosen.any():
                continue
            right = float(weights[chosen & said & true].sum())
            wrong = float(weights[chosen & counted & (said != true)].sum())
            values.append(2 * right / (2 * right + wrong) if right else 0.0)
        return 100 * sum(values) / len(values)

    return statistic
