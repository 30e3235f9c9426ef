"""DocVQA: questions about scanned documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import read_json, take, take_list, take_number, take_text, take_texts
from croc_cli.benchmarks.files import Picture, read_parquet
from croc_cli.benchmarks.prompts import SHORT_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.anls import anls

_FILES = ("val_v1.0_withQT.json", "val_v1.0.json")


class DocVqa(Benchmark):
    """DocVQA, val (paper, Table 2), by the organisers' script."""

    name = "docvqa"
    title = "DocVQA"
    folder = "docvqa"
    hub_splits = ("validation", "val")
    split = "val"
    size = 5_349
    metric = "ANLS"
    layout = ("|".join(_FILES), "documents/")
    max_new_tokens = 32
    variants: ClassVar[Mapping[str, str]] = {
        "binarised": "every answer above the threshold is fully right, as lmms-eval counted until November 2024"
    }

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        folder = root / self.folder
        rows = None if self.holds(root, *_FILES) else read_parquet(folder, *self.hub_splits, config="DocVQA")
        file = folder if rows is not None else self.find(root, *_FILES)
        rows = rows if rows is not None else take_list(read_json(file), "data", str(file))
        records = []
        for number, row in enumerate(rows):
            where = f"{file}, record {number}"
            question_id, image = take_number(row, "questionId", where), take(row, "image", where)
            picture = Picture(image, path=folder / image) if isinstance(image, str) else image
            prompt = take_text(row, "question", where) + SHORT_ANSWER
            answers = take_texts(row, "answers", where) if row.get("answers") else None
            extra = {"types": row.get("question_types") or []}
            records.append(Record(str(question_id), question_id, prompt, picture, answers, extra))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`; a variant counts every answer above the threshold as fully right, as lmms-eval did
        until November 2024, which is most likely how the published figures came about."""
        scores = [anls(answer, record.answer) for record, answer in zip(records, answers, strict=True)]
        binarised = [float(score > 0) for score in scores]
        return Score(
            self.metric,
            Headline.mean(scores),
            scores,
            num_unparsable=sum(not answer.strip() for answer in answers),
            variants={"binarised": Headline.mean(binarised)},
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the RRC server takes."""
        return [
            {"questionId": record.question_id, "answer": answer}
            for record, answer in zip(records, answers, strict=True)
        ]
