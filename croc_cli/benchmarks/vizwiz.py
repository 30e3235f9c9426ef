"""VizWiz: questions that blind people asked about their own photographs, some without an answer."""

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
    read_json,
    read_json_lines,
    take,
    weighted_mean,
)
from croc_cli.benchmarks.scorers.vqa import mean_by, normalise_m4c, vizwiz_accuracy

_UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


class VizWiz(Benchmark):
    """VizWiz (paper, Table 1): the test split for the server, or val, which can be scored here."""

    name = "vizwiz"
    title = "VizWiz"
    folder = "vizwiz"
    split = "test"
    size = 8_000
    metric = "VQA accuracy"
    hidden_labels = True

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        file = self.find(root, "llava_test.jsonl", "test.json", "val.json")
        return self._read_lines(file) if file.suffix == ".jsonl" else self._read_official(file)

    def _read_lines(self, file: Path) -> list[Record]:
        records = []
        for where, row in read_json_lines(file):
            question_id, image = take(row, "question_id", where), take(row, "image", where)
            picture = Picture(image, path=file.parent / "test" / image)
            records.append(Record(str(question_id), question_id, take(row, "text", where), picture))
        return records

    def _read_official(self, file: Path) -> list[Record]:
        records = []
        for index, row in enumerate(read_json(file)):
            where = f"{file}, record {index}"
            image = take(row, "image", where)
            prompt = vizwiz_prompt(take(row, "question", where))
            answers = [take(answer, "answer", where) for answer in row["answers"]] if "answers" in row else None
            picture = Picture(image, path=file.parent / file.stem / image)
            extra = {"answer_type": row.get("answer_type", "unknown")}
            question_id = _image_number(image, index)
            records.append(Record(str(question_id), question_id, prompt, picture, answers, extra))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Score LLaVA's submission form of the answers by the VizWiz API's rule; see `Benchmark.score`."""
        scores = [
            vizwiz_accuracy(normalise_m4c(answer), record.answer)
            for record, answer in zip(records, answers, strict=True)
        ]
        return Score(
            self.metric,
            100 * sum(scores) / len(scores),
            scores,
            {"per_answer_type": mean_by([record.extra["answer_type"] for record in records], scores)},
            num_units=len(scores),
            statistic=weighted_mean(scores),
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return what EvalAI takes: picture and normalised answer, in the order of the file."""
        return [
            {"image": record.picture.name if record.picture else "", "answer": normalise_m4c(answer)}
            for record, answer in zip(records, answers, strict=True)
        ]


def vizwiz_prompt(question: str) -> str:
    """Return LLaVA's prompt; the question is capitalised, and a trailing space is kept."""
    return question.capitalize() + _UNANSWERABLE + SHORT_ANSWER


def _image_number(image: str, index: int) -> int:
    digits = image.rsplit("_", 1)[-1].split(".")[0]
    return int(digits) if digits.isdigit() else index
