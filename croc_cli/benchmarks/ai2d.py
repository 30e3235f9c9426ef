"""AI2D: multiple choice about diagrams of school books."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, take, take_number, take_text, take_texts
from croc_cli.benchmarks.files import read_parquet
from croc_cli.benchmarks.prompts import LETTER_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import LETTERS, ai2d_answer, equals_loosely


class Ai2d(Benchmark):
    """AI2D, test (paper, Table 2), by lmms-eval's rule of October 2024."""

    name = "ai2d"
    title = "AI2D"
    folder = "ai2d"
    hub_splits = ("test",)
    split = "test"
    size = 3_088
    metric = "accuracy"
    max_new_tokens = 16

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; a question's id is its row."""
        folder = root / self.folder
        rows = read_parquet(folder, *self.hub_splits)
        if rows is None:
            raise self.missing(folder, "*.parquet")
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            options = take_texts(row, "options", where)
            lines = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
            picture = take(row, "image", where)
            answer = _letter(take_number(row, "answer", where), len(options), where)
            prompt = take_text(row, "question", where) + lines + LETTER_ANSWER
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


def _letter(index: int, num_options: int, where: str) -> str:
    if not 0 <= index < min(num_options, len(LETTERS)):
        raise BenchmarkDataError(f"{where}: answer {index}, expected an option from 0 to {num_options - 1}")
    return LETTERS[index]
