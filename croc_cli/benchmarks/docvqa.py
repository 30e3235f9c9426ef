"""DocVQA: questions about scanned documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.base import (
    SHORT_ANSWER,
    Benchmark,
    Picture,
    Record,
    Score,
    parquet_picture,
    read_json,
    read_parquet,
    take,
    weighted_mean,
)
from croc_cli.benchmarks.scorers.anls import anls

_FILES = ("val_v1.0_withQT.json", "val_v1.0.json")


class DocVqa(Benchmark):
    """DocVQA, val (paper, Table 2), by the organisers' script."""

    name = "docvqa"
    title = "DocVQA"
    folder = "docvqa"
    split = "val"
    size = 5_349
    metric = "ANLS"
    max_new_tokens = 32

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        folder = root / self.folder
        rows = read_parquet(folder)
        file = folder if rows is not None else self.find(root, *_FILES)
        rows = rows if rows is not None else take(read_json(file), "data", str(file))
        records = []
        for number, row in enumerate(rows):
            where = f"{file}, record {number}"
            question_id, image = take(row, "questionId", where), take(row, "image", where)
            if isinstance(image, str):
                picture = Picture(image, path=folder / image)
            else:
                picture = parquet_picture(f"picture of question {question_id}", image)
            prompt = take(row, "question", where) + SHORT_ANSWER
            answers = row.get("answers") or None
            extra = {"types": row.get("question_types") or []}
            records.append(Record(str(question_id), int(question_id), prompt, picture, answers, extra))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`; a variant counts every answer above the threshold as fully right, as lmms-eval did
        until November 2024, which is most likely how the published figures came about."""
        scores = [anls(answer, record.answer) for record, answer in zip(records, answers, strict=True)]
        binarised = [float(score > 0) for score in scores]
        return Score(
            self.metric,
            100 * sum(scores) / len(scores),
            scores,
            {},
            num_unparsable=sum(not answer.strip() for answer in answers),
            variants={"ANLS binarised": 100 * sum(binarised) / len(binarised)},
            num_units=len(scores),
            statistic=weighted_mean(scores),
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the RRC server takes."""
        return [
            {"questionId": record.question_id, "answer": answer}
            for record, answer in zip(records, answers, strict=True)
        ]
