"""VQAv2: open questions, ten annotators each; the labels of test-dev are at the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import read_json, read_json_lines, take, take_id, take_list, take_number, take_text
from croc_cli.benchmarks.files import Picture, read_parquet, text_of
from croc_cli.benchmarks.prompts import SHORT_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.vqa import mean_by, normalise_m4c, vqa_accuracy

_VAL_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
_VAL_ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
_TEST_QUESTIONS = "llava_vqav2_mscoco_test-dev2015.jsonl"
_ALL_TEST_QUESTIONS = "llava_vqav2_mscoco_test2015.jsonl"
_OFFICIAL_TEST_QUESTIONS = "v2_OpenEnded_mscoco_test-dev2015_questions.json"
_OFFICIAL_ALL_TEST_QUESTIONS = "v2_OpenEnded_mscoco_test2015_questions.json"


class Vqav2(Benchmark):
    """VQAv2 (paper, Table 1); test-dev where its question file is there, else val."""

    name = "vqav2"
    title = "VQAv2"
    folder = "vqav2"
    split = "test-dev"
    size = 107_394
    metric = "VQA accuracy"
    layout = (f"{_TEST_QUESTIONS}|{_OFFICIAL_TEST_QUESTIONS}|{_VAL_QUESTIONS}", "test2015/|val2014/")
    hidden_labels = True
    variants: ClassVar[Mapping[str, str]] = {
        "val": "the val split, whose labels are public",
        "raw-text": "the official rule on the model's own text, without LLaVA's normalisation",
    }

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        tests = () if self.variant == "val" else (_TEST_QUESTIONS, _OFFICIAL_TEST_QUESTIONS)
        splits = ("validation", "val") if self.variant == "val" else ("testdev", "validation", "val")
        if not self.holds(root, *tests, _VAL_QUESTIONS):
            rows = read_parquet(root / self.folder, *splits)
            if rows is not None:
                return self._read_hub(rows, root / self.folder)
        file = self.find(root, *tests, _VAL_QUESTIONS)
        if file.name == _OFFICIAL_TEST_QUESTIONS:
            return self._read_official_test(file)
        return self._read_test(file) if file.name == _TEST_QUESTIONS else self._read_val(file)

    def _read_hub(self, rows: list[dict[str, Any]], folder: Path) -> list[Record]:
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            question_id = take_number(row, "question_id", where)
            answers = [take_text(answer, "answer", where) for answer in row.get("answers") or ()] or None
            kinds = {name: text_of(row.get(name)) for name in ("answer_type", "question_type")}
            prompt = take_text(row, "question", where) + SHORT_ANSWER
            records.append(Record(str(question_id), question_id, prompt, take(row, "image", where), answers, kinds))
        return records

    def _read_official_test(self, file: Path) -> list[Record]:
        records = []
        for index, row in enumerate(take_list(read_json(file), "questions", str(file))):
            where = f"{file}, question {index}"
            question_id = take_number(row, "question_id", where)
            image = f"COCO_test2015_{take_number(row, 'image_id', where):012d}.jpg"
            picture = Picture(image, path=file.parent / "test2015" / image)
            prompt = take_text(row, "question", where) + SHORT_ANSWER
            records.append(Record(str(question_id), question_id, prompt, picture))
        return records

    def _read_test(self, file: Path) -> list[Record]:
        records = []
        for where, row in read_json_lines(file):
            question_id = take_id(row, "question_id", where)
            image = take_text(row, "image", where)
            picture = Picture(image, path=file.parent / "test2015" / image)
            records.append(Record(str(question_id), question_id, take_text(row, "text", where), picture))
        return records

    def _read_val(self, file: Path) -> list[Record]:
        annotations_file = self.find(file.parent.parent, _VAL_ANNOTATIONS)
        annotations = {
            take_id(annotation, "question_id", str(annotations_file)): annotation
            for annotation in take_list(read_json(annotations_file), "annotations", str(annotations_file))
        }
        records = []
        for index, row in enumerate(take_list(read_json(file), "questions", str(file))):
            where = f"{file}, question {index}"
            question_id = take_id(row, "question_id", where)
            annotation = annotations.get(question_id, {})
            where = f"{annotations_file}, question {question_id}"
            answers = [take_text(answer, "answer", where) for answer in take_list(annotation, "answers", where)]
            image = f"COCO_val2014_{take_number(row, 'image_id', where):012d}.jpg"
            kinds = {name: take_text(annotation, name, where) for name in ("answer_type", "question_type")}
            prompt = take_text(row, "question", where) + SHORT_ANSWER
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
            Headline.mean(scores),
            scores,
            parts,
            variants={"raw-text": Headline.mean(raw)},
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return what EvalAI takes: every test2015 question, those of other splits with an empty answer."""
        sent = {record.question_id: normalise_m4c(answer) for record, answer in zip(records, answers, strict=True)}
        picture = next((record.picture for record in records if record.picture is not None), None)
        folder = picture.path.parent.parent if picture is not None and picture.path else None
        ids = _all_test_ids(folder) if folder is not None else []
        return [{"question_id": question_id, "answer": sent.get(question_id, "")} for question_id in ids or sent]


def _all_test_ids(folder: Path) -> list[str | int]:
    """Return the ids of every test2015 question, which the server wants; none where no file tells them."""
    if (file := folder / _ALL_TEST_QUESTIONS).exists():
        return [take_id(row, "question_id", where) for where, row in read_json_lines(file)]
    if (file := folder / _OFFICIAL_ALL_TEST_QUESTIONS).exists():
        return [take_id(row, "question_id", str(file)) for row in take_list(read_json(file), "questions", str(file))]
    return []
