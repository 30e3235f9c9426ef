"""MMStar: multiple choice that takes the picture to answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import take, take_text
from croc_cli.benchmarks.files import read_parquet
from croc_cli.benchmarks.prompts import LETTER_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import mmstar_is_right
from croc_cli.benchmarks.vlmevalkit import ABOUT, VARIANT, choice_prompt, read_by_kit, read_choices, split_options

_TABLE = "MMStar.tsv"


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
    asks_otherwise = frozenset({VARIANT})
    variants: ClassVar[Mapping[str, str]] = {
        "axis-mean": "lmms-eval's unweighted mean over the eighteen axes",
        VARIANT: ABOUT,
    }

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        folder = root / self.folder
        if self.variant == VARIANT and self.holds(root, _TABLE):
            return read_choices(folder / _TABLE)
        rows = read_parquet(folder, *self.hub_splits)
        if rows is None:
            raise self.missing(folder, "*.parquet")
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            index = take(row, "index", where)
            asked = take_text(row, "question", where).strip()
            question, options = split_options(asked)
            # Where the options cannot be told apart, the question shows them, and letters alone are read.
            extra: dict[str, Any] = {"options": options or dict.fromkeys("ABCD", "")}
            prompt = asked + LETTER_ANSWER.removesuffix(".")
            if self.variant == VARIANT:
                prompt = choice_prompt(question, options) if options else asked + LETTER_ANSWER
            picture = take(row, "image", where)
            extra |= {name: take(row, name, where) for name in ("category", "l2_category")}
            records.append(Record(str(index), index, prompt, picture, take_text(row, "answer", where), extra))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`; a variant is lmms-eval's unweighted mean over axes."""
        official = [float(mmstar_is_right(text, one.answer)) for one, text in zip(records, answers, strict=True)]
        kit = read_by_kit(records, answers)
        hits = kit.hits if self.variant == VARIANT else official
        categories: dict[str, list[float]] = defaultdict(list)
        axes: dict[str, list[float]] = defaultdict(list)
        for record, hit in zip(records, hits, strict=True):
            category, axis = record.extra.get("category"), record.extra.get("l2_category")
            categories[str(category)].append(hit)
            axes[f"{category}({axis})"].append(hit)
        per_axis = {axis: 100 * sum(values) / len(values) for axis, values in axes.items()}
        return Score(
            self.metric,
            Headline.mean(official),
            hits,
            {
                "per_category": {name: 100 * sum(values) / len(values) for name, values in categories.items()},
                "per_axis": per_axis,
            },
            num_unparsable=kit.num_unresolved if self.variant == VARIANT else sum(not text.strip() for text in answers),
            variants={
                "axis-mean": Headline(sum(per_axis.values()) / len(per_axis)),
                VARIANT: Headline.mean(kit.hits),
            },
        )
