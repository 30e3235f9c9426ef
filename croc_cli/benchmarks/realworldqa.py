"""RealWorldQA: questions about everyday and driving scenes, with options or with a word or number as answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import take, take_text
from croc_cli.benchmarks.files import read_parquet
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import equals_loosely, realworldqa_answer


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

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; options and instruction are part of a question, whose id is its row."""
        folder = root / self.folder
        rows = read_parquet(folder, *self.hub_splits)
        if rows is None:
            raise self.missing(folder, "*.parquet")
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            picture = take(row, "image", where)
            question, answer = take_text(row, "question", where).strip(), take_text(row, "answer", where)
            records.append(Record(str(number), number, question, picture, answer))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`."""
        hits = [
            float(equals_loosely(realworldqa_answer(answer, record.prompt), record.answer))
            for record, answer in zip(records, answers, strict=True)
        ]
        return Score(
            self.metric,
            Headline.mean(hits),
            hits,
            num_unparsable=sum(not answer.strip() for answer in answers),
        )
