"""VizWiz: questions that blind people asked about their own photographs, some without an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import read_json, read_json_lines, take, take_id, take_list, take_text
from croc_cli.benchmarks.files import Picture, read_parquet, text_of
from croc_cli.benchmarks.prompts import SHORT_ANSWER, UNANSWERABLE
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.vqa import mean_by, normalise_m4c, vizwiz_accuracy


class VizWiz(Benchmark):
    """VizWiz (paper, Table 1): the test split for the server, or val, which can be scored here."""

    name = "vizwiz"
    title = "VizWiz"
    folder = "vizwiz"
    split = "test"
    size = 8_000
    metric = "VQA accuracy"
    layout = ("llava_test.jsonl|test.json|val.json", "test/|val/")
    hidden_labels = True
    variants: ClassVar[Mapping[str, str]] = {"val": "the val split, whose labels are public"}

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        files = ("val.json",) if self.variant == "val" else ("llava_test.jsonl", "test.json", "val.json")
        splits = ("val",) if self.variant == "val" else ("test", "val")
        if not self.holds(root, *files) and (rows := read_parquet(root / self.folder, *splits)) is not None:
            return self._read_hub(rows, root / self.folder)
        file = self.find(root, *files)
        return self._read_lines(file) if file.suffix == ".jsonl" else self._read_official(file)

    def _read_hub(self, rows: list[dict[str, Any]], folder: Path) -> list[Record]:
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            image = f"{str(take(row, 'question_id', where)).removesuffix('.jpg')}.jpg"
            picture = replace(take(row, "image", where), name=image)
            prompt = vizwiz_prompt(take_text(row, "question", where))
            question_id = _image_number(image, number)
            extra = {"answer_type": text_of(row.get("category")) or "unknown", "aliases": _names(image)}
            records.append(Record(str(question_id), question_id, prompt, picture, row.get("answers") or None, extra))
        return records

    def _read_lines(self, file: Path) -> list[Record]:
        records = []
        for where, row in read_json_lines(file):
            question_id, image = take_id(row, "question_id", where), take_text(row, "image", where)
            picture = Picture(image, path=file.parent / "test" / image)
            records.append(
                Record(
                    str(question_id),
                    question_id,
                    take_text(row, "text", where),
                    picture,
                    extra={"aliases": _names(image)},
                )
            )
        return records

    def _read_official(self, file: Path) -> list[Record]:
        records = []
        for index, row in enumerate(_listed(read_json(file), file)):
            where = f"{file}, record {index}"
            image = take_text(row, "image", where)
            prompt = vizwiz_prompt(take_text(row, "question", where))
            answers = (
                [take_text(answer, "answer", where) for answer in take_list(row, "answers", where)]
                if "answers" in row
                else None
            )
            picture = Picture(image, path=file.parent / file.stem / image)
            extra = {"answer_type": text_of(row.get("answer_type")) or "unknown", "aliases": _names(image)}
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
            Headline.mean(scores),
            scores,
            {"per_answer_type": mean_by([record.extra["answer_type"] for record in records], scores)},
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return what EvalAI takes: picture and normalised answer, in the order of the file."""
        return [
            {"image": record.picture.name if record.picture else "", "answer": normalise_m4c(answer)}
            for record, answer in zip(records, answers, strict=True)
        ]


def vizwiz_prompt(question: str) -> str:
    """Return LLaVA's prompt; the question is capitalised, and a trailing space is kept."""
    return question.capitalize() + UNANSWERABLE + SHORT_ANSWER


def _listed(content: Any, file: Path) -> list[Any]:
    return take_list({"records": content}, "records", str(file))


def _names(image: str) -> list[str]:
    return [image, image.rsplit(".", 1)[0]]


def _image_number(image: str, index: int) -> int:
    digits = image.rsplit("_", 1)[-1].split(".")[0]
    return int(digits) if digits.isdigit() else index
