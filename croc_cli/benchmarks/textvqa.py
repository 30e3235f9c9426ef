"""TextVQA: questions about text in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from croc_cli.benchmarks.scorers.vqa import textvqa_accuracy

_PROMPTS = "llava_textvqa_val_v051_ocr.jsonl"


class TextVqa(Benchmark):
    """TextVQA, val (paper, Table 1); LLaVA's prompts name what an OCR model read in the picture."""

    name = "textvqa"
    title = "TextVQA"
    folder = "textvqa"
    split = "val"
    size = 5_000
    metric = "VQA accuracy"

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; prompts have OCR tokens where LLaVA's question file is there."""
        file = self.find(root, "TextVQA_0.5.1_val.json")
        prompts_file = file.parent / _PROMPTS
        prompts: dict[str, str] = {}
        if prompts_file.exists():
            for where, row in read_json_lines(prompts_file):
                text = take(row, "text", where)
                prompts[_key(take(row, "question_id", where), text)] = text
        records = []
        for index, row in enumerate(take(read_json(file), "data", str(file))):
            where = f"{file}, record {index}"
            image_id, question = take(row, "image_id", where), take(row, "question", where)
            key = _key(image_id, question)
            picture = Picture(f"{image_id}.jpg", path=file.parent / "train_images" / f"{image_id}.jpg")
            prompt = prompts.get(key, question.capitalize() + SHORT_ANSWER)
            answers = take(row, "answers", where)
            extra = {"has_ocr_tokens": key in prompts}
            records.append(Record(key, image_id, prompt, picture, answers, extra))
        return records

    def row_key(self, row: Mapping[str, Any]) -> str:
        """Match by picture and question: LLaVA's question ids are the pictures'."""
        return _key(row["question_id"], str(row["prompt"]))

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Score by m4c's rule; see `Benchmark.score`."""
        scores = [textvqa_accuracy(answer, record.answer) for record, answer in zip(records, answers, strict=True)]
        with_ocr = sum(bool(record.extra.get("has_ocr_tokens")) for record in records)
        return Score(
            self.metric,
            100 * sum(scores) / len(scores),
            scores,
            {"prompts_with_ocr_tokens": with_ocr},
            num_units=len(scores),
            statistic=weighted_mean(scores),
        )


def _key(image_id: str, prompt: str) -> str:
    return f"{image_id} {prompt.split(chr(10), 1)[0].lower()}"
