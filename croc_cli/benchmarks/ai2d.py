"""AI2D: multiple choice about diagrams of school books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, take, take_number, take_text, take_texts
from croc_cli.benchmarks.files import read_parquet
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import LETTERS, ai2d_answer, equals_loosely
from croc_cli.benchmarks.vlmevalkit import ABOUT, VARIANT, choice_prompt, read_by_kit, read_choices

_TABLE = "AI2D_TEST.tsv"


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
    variants: ClassVar[Mapping[str, str]] = {VARIANT: ABOUT}

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; a question's id is its row."""
        folder = root / self.folder
        if self.variant == VARIANT and self.holds(root, _TABLE):
            return read_choices(folder / _TABLE)
        rows = read_parquet(folder, *self.hub_splits)
        if rows is None:
            raise self.missing(folder, "*.parquet")
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            options = dict(zip(LETTERS, take_texts(row, "options", where), strict=False))
            picture = take(row, "image", where)
            answer = _letter(take_number(row, "answer", where), len(options), where)
            prompt = choice_prompt(take_text(row, "question", where), options)
            records.append(Record(str(number), number, prompt, picture, answer, {"options": options}))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`."""
        read = [ai2d_answer(answer) for answer in answers]
        hits = [float(equals_loosely(text, record.answer)) for record, text in zip(records, read, strict=True)]
        unparsable = sum(not any(equals_loosely(text, letter) for letter in LETTERS) for text in read)
        kit = read_by_kit(records, answers)
        is_kit = self.variant == VARIANT
        return Score(
            self.metric,
            Headline.mean(hits),
            kit.hits if is_kit else hits,
            num_unparsable=kit.num_unresolved if is_kit else unparsable,
            variants={VARIANT: Headline.mean(kit.hits)},
        )


def _letter(index: int, num_options: int, where: str) -> str:
    if not 0 <= index < min(num_options, len(LETTERS)):
        raise BenchmarkDataError(f"{where}: answer {index}, expected an option from 0 to {num_options - 1}")
    return LETTERS[index]
