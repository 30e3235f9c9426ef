"""MMStar: multiple choice that takes the picture to answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import take, take_text
from croc_cli.benchmarks.files import read_parquet
from croc_cli.benchmarks.prompts import LETTER_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import mmstar_is_right


class MmStar(Benchmark):
    """MMStar, val (paper, Table 2), by the authors' script."""

    name = "mmstar"
    title = "MMStar"
    folder = "mmstar"
    hub_splits = ("val", "test")
    split = "val"
    size = 1_500
    metric = "accuracy"
    max_new_tokens = 1024
    variants: ClassVar[Mapping[str, str]] = {"axis-mean": "lmms-eval's unweighted mean over the eighteen axes"}

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        folder = root / self.folder
        rows = read_parquet(folder, *self.hub_splits)
        if rows is None:
            raise self.missing(folder, "*.parquet")
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            index = take(row, "index", where)
            prompt = take_text(row, "question", where).strip() + LETTER_ANSWER.removesuffix(".")
            picture = take(row, "image", where)
            extra = {name: take(row, name, where) for name in ("category", "l2_category")}
            records.append(Record(str(index), index, prompt, picture, take_text(row, "answer", where), extra))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`; a variant is lmms-eval's unweighted mean over axes."""
        hits = [float(mmstar_is_right(answer, record.answer)) for record, answer in zip(records, answers, strict=True)]
        categories: dict[str, list[float]] = defaultdict(list)
        axes: dict[str, list[float]] = defaultdict(list)
        for record, hit in zip(records, hits, strict=True):
            categories[record.extra["category"]].append(hit)
            axes[f"{record.extra['category']}({record.extra['l2_category']})"].append(hit)
        per_axis = {axis: 100 * sum(values) / len(values) for axis, values in axes.items()}
        return Score(
            self.metric,
            Headline.mean(hits),
            hits,
            {
                "per_category": {name: 100 * sum(values) / len(values) for name, values in categories.items()},
                "per_axis": per_axis,
            },
            num_unparsable=sum(not answer.strip() for answer in answers),
            variants={"axis-mean": Headline(sum(per_axis.values()) / len(per_axis))},
        )
