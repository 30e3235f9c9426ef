"""SEED-Bench: multiple choice about pictures and about single frames of videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.base import (
    LETTER_ANSWER,
    Benchmark,
    Picture,
    Record,
    Score,
    read_json,
    take,
    weighted_mean,
)

_CHOICES = (("A", "choice_a"), ("B", "choice_b"), ("C", "choice_c"), ("D", "choice_d"))


class SeedBench(Benchmark):
    """SEED-Bench (paper, Table 1): accuracy over pictures and videos, which LLaVA's published figure is."""

    name = "seedbench"
    title = "SEED"
    folder = "seed_bench"
    split = "image and video"
    size = 19_242
    metric = "accuracy"

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; of a video its middle frame is shown."""
        file = self.find(root, "SEED-Bench.json")
        content = read_json(file)
        types = {number: name for name, number in take(content, "question_type", str(file)).items()}
        records = []
        for index, row in enumerate(take(content, "questions", str(file))):
            where = f"{file}, question {index}"
            kind, data_id = take(row, "data_type", where), str(take(row, "data_id", where))
            question_id = str(take(row, "question_id", where))
            options = "".join(f"\n{letter}. {take(row, name, where)}" for letter, name in _CHOICES)
            if kind == "image":
                path = file.parent / "SEED-Bench-image" / data_id
            else:
                path = file.parent / "SEED-Bench-video-image" / f"{row.get('question_type_id')}_{question_id}.png"
            extra = {"data_type": kind, "type": types.get(row.get("question_type_id"), "unknown")}
            written_id: int | str = int(question_id) if kind == "image" and question_id.isdigit() else question_id
            prompt = take(row, "question", where) + options + LETTER_ANSWER
            answer = take(row, "answer", where)
            records.append(Record(question_id, written_id, prompt, Picture(path.name, path), answer, extra))
        return records

    def row_key(self, row: Mapping[str, Any]) -> str:
        """Match by id; LLaVA writes a video's with a "v" before it, unless the file does."""
        return str(row["question_id"])

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Compare the text with the letter, exactly; see `Benchmark.score`."""
        hits = [float(answer == record.answer) for record, answer in zip(records, answers, strict=True)]
        groups: dict[str, list[float]] = defaultdict(list)
        types: dict[str, list[float]] = defaultdict(list)
        for record, hit in zip(records, hits, strict=True):
            groups[record.extra["data_type"]].append(hit)
            types[record.extra["type"]].append(hit)
        shares = {f"{name} only": 100 * sum(values) / len(values) for name, values in groups.items()}
        return Score(
            self.metric,
            100 * sum(hits) / len(hits),
            hits,
            {"per_type": {name: 100 * sum(values) / len(values) for name, values in types.items()}},
            num_unparsable=sum(answer not in tuple("ABCD") for answer in answers),
            variants=shares,
            num_units=len(hits),
            statistic=weighted_mean(hits),
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of the leaderboard's upload."""
        return [
            {"question_id": record.key, "prediction": answer} for record, answer in zip(records, answers, strict=True)
        ]
