"""TextVQA: questions about text in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import read_json, read_json_lines, take, take_id, take_list, take_text, take_texts
from croc_cli.benchmarks.files import Picture, read_parquet
from croc_cli.benchmarks.prompts import OCR_LINE, SHORT_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.vqa import textvqa_accuracy

_RECORDS = "TextVQA_0.5.1_val.json"
_PROMPTS = "llava_textvqa_val_v051_ocr.jsonl"


class TextVqa(Benchmark):
    """TextVQA, val (paper, Table 1); LLaVA's prompts name what an OCR model read in the picture."""

    name = "textvqa"
    title = "TextVQA"
    folder = "textvqa"
    hub_splits = ("validation",)
    split = "val"
    size = 5_000
    metric = "VQA accuracy"
    layout = (_RECORDS, _PROMPTS, "train_images/")
    variants: ClassVar[Mapping[str, str]] = {"no-ocr": "prompts without the line of OCR tokens, as lmms-eval asks"}

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; prompts have OCR tokens where LLaVA's question file is there."""
        if not self.holds(root, _RECORDS) and (rows := read_parquet(root / self.folder, *self.hub_splits)) is not None:
            return self._read_hub(rows, root / self.folder)
        file = self.find(root, _RECORDS)
        prompts_file = file.parent / _PROMPTS
        prompts: dict[str, str] = {}
        if prompts_file.exists() and self.variant != "no-ocr":
            for where, row in read_json_lines(prompts_file):
                text = take_text(row, "text", where)
                prompts[_key(str(take_id(row, "question_id", where)), text)] = text
        records = []
        for index, row in enumerate(take_list(read_json(file), "data", str(file))):
            where = f"{file}, record {index}"
            image_id, question = take_text(row, "image_id", where), take_text(row, "question", where)
            key = _key(image_id, question)
            picture = Picture(f"{image_id}.jpg", path=file.parent / "train_images" / f"{image_id}.jpg")
            prompt = prompts.get(key) or textvqa_prompt(question, None)
            answers = take_texts(row, "answers", where)
            extra = {"has_ocr_tokens": key in prompts, "aliases": [row.get("question_id")]}
            records.append(Record(key, image_id, prompt, picture, answers, extra))
        return _with_last_answers(records)

    def _read_hub(self, rows: list[dict[str, Any]], folder: Path) -> list[Record]:
        records = []
        for number, row in enumerate(rows):
            where = f"{folder}, row {number}"
            image_id, question = take_text(row, "image_id", where), take_text(row, "question", where)
            tokens = None if self.variant == "no-ocr" else row.get("ocr_tokens")
            prompt, picture = textvqa_prompt(question, tokens), take(row, "image", where)
            extra = {"has_ocr_tokens": tokens is not None, "aliases": [row.get("question_id")]}
            answers = take_texts(row, "answers", where)
            records.append(Record(_key(image_id, question), image_id, prompt, picture, answers, extra))
        return _with_last_answers(records)

    def row_key(self, row: Mapping[str, Any]) -> str:
        """Match by picture and question: LLaVA's question ids are the pictures'."""
        return _key(row["question_id"], str(row.get("prompt") or ""))

    def as_asked(self, record: Record, prompt: str) -> Record | None:
        """Tell prompts with OCR tokens from those without; where the data name none, the answers' prompts decide."""
        asked = super().as_asked(record, prompt)
        if "\n" not in prompt.strip():
            return asked  # the question alone does not tell
        had_tokens = OCR_LINE.strip() in prompt
        if asked is None or had_tokens < record.extra["has_ocr_tokens"] or (had_tokens and self.variant == "no-ocr"):
            return None
        return replace(asked, extra={**asked.extra, "has_ocr_tokens": had_tokens})

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Score by m4c's rule; see `Benchmark.score`."""
        scores = [textvqa_accuracy(answer, record.answer) for record, answer in zip(records, answers, strict=True)]
        with_ocr = sum(bool(record.extra.get("has_ocr_tokens")) for record in records)
        return Score(
            self.metric,
            Headline.mean(scores),
            scores,
            {"prompts_with_ocr_tokens": with_ocr},
        )


def textvqa_prompt(question: str, ocr_tokens: Sequence[str] | None) -> str:
    """Return LLaVA's prompt; its line of OCR tokens is there even when there is none to name."""
    line = "" if ocr_tokens is None else f"\n{OCR_LINE}{', '.join(ocr_tokens)}"
    return question.capitalize() + line + SHORT_ANSWER


def _with_last_answers(records: list[Record]) -> list[Record]:
    """Give records of the same question about the same picture the last one's answers, as LLaVA's scorer has them."""
    last = {record.key: record.answer for record in records}
    return [replace(record, answer=last[record.key]) for record in records]


def _key(image_id: str, prompt: str) -> str:
    return f"{image_id} {prompt.split(chr(10), 1)[0].lower()}"
