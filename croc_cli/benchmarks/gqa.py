"""GQA: compositional questions with one right word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, read_json, take, take_id, take_list, take_object, take_text
from croc_cli.benchmarks.files import Picture, read_parquet
from croc_cli.benchmarks.prompts import SHORT_ANSWER
from croc_cli.benchmarks.score import Headline, Score

_QUESTIONS = "testdev_balanced_questions.json"
_FILES = (f"data/{_QUESTIONS}", f"data/questions1.2/{_QUESTIONS}", _QUESTIONS)
_HUB_QUESTIONS, _HUB_IMAGES = "testdev_balanced_instructions", "testdev_balanced_images"
"""The hub data set's two configurations, each a folder of parquet files."""
_NOT_A_STEP = ("exist", "query: name", "choose name")  # what the official script leaves out when it counts steps


class Gqa(Benchmark):
    """GQA, testdev balanced (paper, Table 1)."""

    name = "gqa"
    title = "GQA"
    folder = "gqa"
    split = "testdev balanced"
    size = 12_578
    metric = "exact match"
    layout = ("|".join(_FILES), "data/images/")

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        folder = root / self.folder
        if not self.holds(root, *_FILES) and (rows := read_parquet(folder / _HUB_QUESTIONS, "testdev")) is not None:
            pictures = {
                take_id(row, "id", str(folder)): take(row, "image", str(folder))
                for row in read_parquet(folder / _HUB_IMAGES, "testdev") or ()
            }
            where = f"{folder / _HUB_QUESTIONS}, question "
            pairs = [(str(take(row, "id", where)), row) for row in rows]
            return [
                self._record(question_id, row, where, pictures.get(take(row, "imageId", where)))
                for question_id, row in pairs
            ]
        file = self.find(root, *_FILES)
        images = folder / "data" / "images"
        records = []
        for question_id, row in take_object(read_json(file), str(file)).items():
            if take_object(row, f"{file}, question {question_id}").get("isBalanced", True):
                where = f"{file}, question "
                image = f"{take(row, 'imageId', where + question_id)}.jpg"
                records.append(self._record(question_id, row, where, Picture(image, images / image)))
        return records

    def _record(self, question_id: str, row: Mapping[str, Any], where: str, picture: Picture | None) -> Record:
        where += question_id
        types, groups = (take_object(take(row, name, where), f"{where}, {name}") for name in ("types", "groups"))
        for name in ("structural", "semantic"):
            take_text(types, name, f"{where}, types")
        steps = take_list(row, "semantic", where)
        for step in steps:
            take(step, "operation", f"{where}, semantic"), take(step, "argument", f"{where}, semantic")
        question = take_text(row, "question", where)
        extra = {"types": types, "groups": groups, "semantic": steps, "question": question}
        if picture is None:
            raise BenchmarkDataError(f"{where}: no picture {row.get('imageId')}", hint=f"fetch {_HUB_IMAGES} too")
        prompt = question + SHORT_ANSWER
        return Record(question_id, question_id, prompt, picture, take_text(row, "answer", where), extra)

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Compare exactly, trailing periods and case aside; see `Benchmark.score`."""
        given = [gqa_answer(answer) for answer in answers]
        scores = [float(answer == record.answer) for record, answer in zip(records, given, strict=True)]
        kinds = [record.extra["types"]["structural"] for record in records]
        binary = [score for kind, score in zip(kinds, scores, strict=True) if kind != "query"]
        open_ones = [score for kind, score in zip(kinds, scores, strict=True) if kind == "query"]
        parts = {
            "binary": _percent(binary),
            "open": _percent(open_ones),
            "distribution": distribution_distance(records, given),
            "per_structural_type": _grouped(kinds, scores),
            "per_semantic_type": _grouped([record.extra["types"]["semantic"] for record in records], scores),
            "per_number_of_steps": _grouped([str(_num_steps(record.extra["semantic"])) for record in records], scores),
            "per_number_of_words": _grouped([str(len(r.extra["question"].split())) for r in records], scores),
        }
        return Score(self.metric, Headline.mean(scores), scores, parts)


def gqa_answer(text: str) -> str:
    """Return an answer as LLaVA hands it to GQA's script: without trailing periods, in lower case."""
    return text.rstrip(".").lower()


def distribution_distance(records: Sequence[Record], answers: Sequence[str]) -> float:
    """Return how far the answers' distribution is from the truth's: chi-square over global groups, by 100."""
    truth: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, Counter[str]] = defaultdict(Counter)
    for record, answer in zip(records, answers, strict=True):
        group = record.extra["groups"].get("global")
        if group is not None:
            truth[group][record.answer] += 1
            given[group][answer] += 1
    total = sum(sum(counts.values()) for counts in truth.values())
    if not total:
        return 0.0
    weighted = 0.0
    for group, counts in truth.items():
        distance = sum((given[group][answer] - count) ** 2 / count for answer, count in counts.items())
        weighted += distance * sum(counts.values())
    return weighted / total / 100


def _num_steps(program: Sequence[dict[str, Any]]) -> int:
    steps = [f"{step['operation']}: {step['argument']}" for step in program]
    return sum(not any(name in step for name in _NOT_A_STEP) for step in steps)


def _grouped(groups: Sequence[str], scores: Sequence[float]) -> dict[str, dict[str, float]]:
    collected: dict[str, list[float]] = defaultdict(list)
    for group, score in zip(groups, scores, strict=True):
        collected[group].append(score)
    return {group: {"percent": _percent(values), "count": len(values)} for group, values in sorted(collected.items())}


def _percent(scores: Sequence[float]) -> float:
    return 100 * sum(scores) / len(scores) if scores else 0.0
