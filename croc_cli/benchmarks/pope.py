"""POPE: is there an object in the picture? Three ways of choosing the objects that are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from croc_cli.benchmarks.base import SHORT_ANSWER, Benchmark, Picture, Record, Score, read_json_lines, take
from croc_cli.benchmarks.scorers.yes_no import binary_metrics, pope_answer

if TYPE_CHECKING:
    import numpy as np

SUBSETS = ("adversarial", "popular", "random")
_FIRST_ID = {"adversarial": 0, "popular": 20_000_000, "random": 10_000_000}
_AVERAGED = ("accuracy", "precision", "recall", "f1", "yes_ratio")


class Pope(Benchmark):
    """POPE on COCO (paper, Table 1): the mean F1 of its three subsets."""

    name = "pope"
    title = "POPE"
    folder = "pope"
    split = "random, popular, adversarial"
    size = 8_910
    metric = "mean F1"

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        records = []
        for subset in SUBSETS:
            file = self.find(root, f"coco/coco_pope_{subset}.json")
            for position, (where, row) in enumerate(read_json_lines(file), start=1):
                image = take(row, "image", where)
                picture = Picture(image, path=root / self.folder / "val2014" / image)
                question_id = _FIRST_ID[subset] + position  # answers pair with labels by order, as in the reference
                prompt = take(row, "text", where) + SHORT_ANSWER
                label = take(row, "label", where)
                records.append(Record(str(question_id), question_id, prompt, picture, label, {"subset": subset}))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`."""
        read = [pope_answer(answer) for answer in answers]
        hits = [float(answer == record.answer) for record, answer in zip(records, read, strict=True)]
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
        strict = [answer.strip().lower() in ("yes", "no") for answer in answers]
        return Score(
            self.metric,
            100 * mean["f1"],
            hits,
            {"per_subset": per_subset, "mean": mean},
            num_unparsable=strict.count(False),
            num_units=len(records),
            statistic=_mean_f1(records, read),
        )


def _mean_f1(records: Sequence[Record], read: Sequence[str]) -> Callable[[np.ndarray], float]:
    import numpy as np

    said = np.array([answer == "yes" for answer in read])
    true = np.array([record.answer == "yes" for record in records])
    subsets = [np.array([record.extra["subset"] == subset for record in records]) for subset in SUBSETS]

    def statistic(weights: np.ndarray) -> float:
        values = []
        for chosen in subsets:
            if not chosen.any():
                continue
            right = float(weights[chosen & said & true].sum())
            wrong = float(weights[chosen & (said != true)].sum())
            values.append(2 * right / (2 * right + wrong) if right else 0.0)
        return 100 * sum(values) / len(values)

    return statistic
