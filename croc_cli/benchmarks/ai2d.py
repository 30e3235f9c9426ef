"""AI2D: multiple choice about diagrams of school books."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from croc_cli.benchmarks.base import LETTER_ANSWER, Benchmark, Record
from croc_cli.benchmarks.files import read_parquet, take
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import LETTERS, ai2d_answer, equals_loosely


class Ai2d(Benchmark):
    """AI2D, test (paper, Table 2), by lmms-eval's rule of October 2024."""

    name = "ai2d"
    title = "AI2D"
    folder = "ai2d"
    split = "test"
    size = 3_088
    metric = "accuracy"
    max_new_tokens = 16

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; a question's id is its row."""
        folder = root / self.folder
        rows = read_parquet(folder, "test")
        if rows is None:
            raise self.missing(folder, "*.parquet")
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            options = take(row, "options", where)
            lines = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
            picture = take(row, "image", where)
            answer = LETTERS[int(take(row, "answer", where))]
            prompt = take(row, "question", where) + lines + LETTER_ANSWER
            records.append(Record(str(number), number, prompt, picture, answer))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`."""
        read = [ai2d_answer(answer) for answer in answers]
        hits = [float(equals_loosely(text, record.answer)) for record, text in zip(records, read, strict=True)]
        unparsable = sum(not any(equals_loosely(text, letter) for letter in LETTERS) for text in read)
        return Score(
            self.metric,
            Headline.mean(hits),
            hits,
            num_unparsable=unparsable,
        )
