"""VQAv2: open questions, ten annotators each; the labels of test-dev are at the server."""

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
from croc_cli.benchmarks.scorers.vqa import mean_by, normalise_m4c, vqa_accuracy

_VAL_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
_VAL_ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
_TEST_QUESTIONS = "llava_vqav2_mscoco_test-dev2015.jsonl"
_ALL_TEST_QUESTIONS = "llava_vqav2_mscoco_test2015.jsonl"


class Vqav2(Benchmark):
    """VQAv2 (paper, Table 1); test-dev where its question file is there, else val."""

    name = "vqav2"
    title = "VQAv2"
    folder = "vqav2"
    split = "test-dev"
    size = 107_394
    metric = "VQA accuracy"
    hidden_labels = True

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        file = self.find(root, _TEST_QUESTIONS, _VAL_QUESTIONS)
        return self._read_test(file) if file.name == _TEST_QUESTIONS else self._read_val(file)

    def _read_test(self, file: Path) -> list[Record]:
        records = []
        for where, row in read_json_lines(file):
            question_id = take(row, "question_id", where)
            image = take(row, "image", where)
            picture = Picture(image, path=file.parent / "test2015" / image)
            records.append(Record(str(question_id), question_id, take(row, "text", where), picture))
        return records

    def _read_val(self, file: Path) -> list[Record]:
        annotations_file = self.find(file.parent.parent, _VAL_ANNOTATIONS)
        annotations = {
            annotation["question_id"]: annotation for annotation in take(read_json(annotations_file), "annotations", "")
        }
        records = []
        for index, row in enumerate(take(read_json(file), "questions", str(file))):
            where = f"{file}, question {index}"
            question_id = take(row, "question_id", where)
            annotation = annotations.get(question_id, {})
            where = f"{annotations_file}, question {question_id}"
            answers = [take(answer, "answer", where) for answer in take(annotation, "answers", where)]
            image = f"COCO_val2014_{take(row, 'image_id', where):012d}.jpg"
            kinds = {name: take(annotation, name, where) for name in ("answer_type", "question_type")}
            prompt = take(row, "question", where) + SHORT_ANSWER
            picture = Picture(image, path=file.parent / "val2014" / image)
            records.append(Record(str(question_id), question_id, prompt, picture, answers, kinds))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Score LLaVA's submission form of the answers, as the server does; see `Benchmark.score`."""
        sent = [normalise_m4c(answer) for answer in answers]
        scores = [vqa_accuracy(answer, record.answer) for record, answer in zip(records, sent, strict=True)]
        raw = [vqa_accuracy(answer, record.answer) for record, answer in zip(records, answers, strict=True)]
        parts = {
            f"per_{kind}": mean_by([record.extra[kind] for record in records], scores)
            for kind in ("answer_type", "question_type")
        }
        return Score(
            self.metric,
            100 * sum(scores) / len(scores),
            scores,
            parts,
            variants={"official on raw text": 100 * sum(raw) / len(raw)},
            num_units=len(scores),
            statistic=weighted_mean(scores),
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return what EvalAI takes: every test2015 question, those of other splits with an empty answer."""
        sent = {record.question_id: normalise_m4c(answer) for record, answer in zip(records, answers, strict=True)}
        picture = next((record.picture for record in records if record.picture is not None), None)
        every = picture.path.parent.parent / _ALL_TEST_QUESTIONS if picture is not None and picture.path else None
        ids = [row["question_id"] for _, row in read_json_lines(every)] if every and every.exists() else list(sent)
        return [{"question_id": question_id, "answer": sent.get(question_id, "")} for question_id in ids]
