"""RealWorldQA: questions about everyday and driving scenes, with options or with a word or number as answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import take, take_text
from croc_cli.benchmarks.files import read_parquet
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import equals_loosely, realworldqa_answer
from croc_cli.benchmarks.vlmevalkit import ABOUT, VARIANT, choice_prompt, read_by_kit, read_choices, split_options

_TABLE = "RealWorldQA.tsv"


class RealWorldQa(Benchmark):
    """RealWorldQA, test (paper, Table 2), by lmms-eval's rule of October 2024."""

    name = "realworldqa"
    title = "RealWorldQA"
    folder = "realworldqa"
    hub_splits = ("test",)
    split = "test"
    size = 765
    metric = "accuracy"
    max_new_tokens = 16
    asks_otherwise = frozenset({VARIANT})
    variants: ClassVar[Mapping[str, str]] = {VARIANT: ABOUT}

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; options and instruction are part of a question, whose id is its row."""
        folder = root / self.folder
        if self.variant == VARIANT and self.holds(root, _TABLE):
            return read_choices(folder / _TABLE)
        rows = read_parquet(folder, *self.hub_splits)
        if rows is None:
            raise self.missing(folder, "*.parquet")
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            picture = take(row, "image", where)
            asked, answer = take_text(row, "question", where).strip(), take_text(row, "answer", where)
            question, options = split_options(asked)
            prompt = choice_prompt(question, options) if self.variant == VARIANT else asked
            records.append(Record(str(number), number, prompt, picture, answer, {"options": options}))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`."""
        hits = [
            float(equals_loosely(realworldqa_answer(answer, record.prompt), record.answer))
            for record, answer in zip(records, answers, strict=True)
        ]
        kit = read_by_kit(records, answers)
        is_kit = self.variant == VARIANT
        return Score(
            self.metric,
            Headline.mean(hits),
            kit.hits if is_kit else hits,
            num_unparsable=kit.num_unresolved if is_kit else sum(not answer.strip() for answer in answers),
            variants={VARIANT: Headline.mean(kit.hits)},
        )
