"""The demo's benchmark: held-out questions and captions about drawn scenes, beside baselines without sight.

Each question is asked about its own picture, about that of another scene and about a blank one; only the first counts.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.files import Picture
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.names import IMAGE_TOKEN

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

VARIANTS = ("picture", "another_picture", "no_picture")
"""What a question is asked about: its own picture, that of another scene, and a blank one."""
BASELINES = ("swapped_picture", "other_question", "most_common_answer", "best_blind_rule", "no_picture")
"""What stands beside each accuracy: the model shown another picture, the model's answer to another question about the
same picture, the most common answer, the best rule that looks at the scene and never at the question, and the model
shown a blank picture."""
BLIND_BASELINES = ("most_common_answer", "best_blind_rule")
"""The baselines that need no question; an accuracy has to stand clear of the better one."""
_SHOWN_OTHERWISE = {"swapped_picture": "another_picture", "no_picture": "no_picture"}
"""Baseline → the answers of a row that it is made of."""


def first_word(text: str) -> str:
    """Return the first word of an answer in lower case, without punctuation; empty where there is none."""
    match = re.search(r"[a-z]+|\d+", text.lower())
    return match.group() if match else ""


def score_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score questions with their answers.

    Args:
        rows: Evaluation records with the answers `text` and, for questions, `another_picture` and `no_picture`.

    Returns:
        `accuracy` by type and `mean_accuracy`; `baselines` by name, each by type; `best_blind`, the better of the
        question-blind baselines by type; accuracy on held-out pairs; `caption_recall`, and the same for pairs that
        were trained together and for those that were not; `num_questions`.

    Raises:
        KeyError: A row has no answer.
    """
    questions = [row for row in rows if row["kind"] == "question"]
    captions = [row for row in rows if row["kind"] == "caption"]
    accuracy = accuracy_by_type(questions, "text")
    baselines = baselines_by_type(questions)
    return {
        "mean_accuracy": sum(accuracy.values()) / len(accuracy),
        "accuracy": accuracy,
        "baselines": baselines,
        "best_blind": {kind: max(baselines[name][kind] for name in BLIND_BASELINES) for kind in accuracy},
        "accuracy_on_held_out_pairs": accuracy_by_type(
            [question for question in questions if question["names_held_out_pair"]], "text"
        ),
        "caption_recall": caption_recall(captions),
        "caption_recall_trained_pairs": caption_recall(captions, held_out=False),
        "caption_recall_held_out_pairs": caption_recall(captions, held_out=True),
        "num_questions": len(questions),
    }


def accuracy_by_type(questions: Iterable[Mapping[str, Any]], variant: str) -> dict[str, float]:
    """Return the share of right answers for every question type.

    Args:
        questions: Question rows.
        variant: Which of their answers counts: "text", "another_picture" or "no_picture".

    Raises:
        KeyError: A question has no such answer.
    """
    return _share_by_type((row["type"], first_word(row[variant]) == row["answer"]) for row in questions)


def baselines_by_type(questions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the baselines: name → question type → share of right answers; those without answers are left out."""
    said = {row["question_id"]: row["text"] for row in questions}
    baselines = {
        "other_question": _share_by_type(
            (row["type"], first_word(said[row["other_question_id"]]) == row["answer"])
            for row in questions
            if row["other_question_id"] in said
        ),
        "most_common_answer": _best_constant(questions),
        "best_blind_rule": _best_rule(questions),
    }
    for name, variant in _SHOWN_OTHERWISE.items():
        if all(variant in row for row in questions):
            baselines[name] = accuracy_by_type(questions, variant)
    return {name: baselines[name] for name in BASELINES if name in baselines}


def caption_recall(captions: Iterable[Mapping[str, Any]], *, held_out: bool | None = None) -> float | None:
    """Return the share of the objects that their pictures' captions name with the right colour ("a red star").

    Args:
        captions: Caption rows.
        held_out: Count only objects whose shape and colour were never (True) or were (False) trained together.

    Returns:
        The share, or None where there is no such object.
    """
    named = [
        re.search(rf"\b{colour} {shape}\b", row["text"].lower()) is not None
        for row in captions
        for (shape, colour), is_held_out in zip(row["objects"], row["held_out"], strict=True)
        if held_out is None or is_held_out == held_out
    ]
    return sum(named) / len(named) if named else None


def _share_by_type(outcomes: Iterable[tuple[str, bool]]) -> dict[str, float]:
    by_type: dict[str, list[bool]] = {}
    for question_type, is_right in outcomes:
        by_type.setdefault(question_type, []).append(is_right)
    return {question_type: sum(found) / len(found) for question_type, found in by_type.items()}


def _best_constant(questions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    answers: dict[str, Counter[str]] = {}
    for record in questions:
        answers.setdefault(record["type"], Counter())[record["answer"]] += 1
    return {name: counter.most_common(1)[0][1] / counter.total() for name, counter in answers.items()}


def _best_rule(questions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    right: dict[str, Counter[str]] = {}
    totals = Counter(record["type"] for record in questions)
    for record in questions:
        hits = (rule for rule, answer in record["blind_answers"].items() if answer == record["answer"])
        right.setdefault(record["type"], Counter()).update(hits)
    return {name: max(counter.values(), default=0) / totals[name] for name, counter in right.items()}


class SceneSettings(Protocol):
    """How much of the benchmark is asked."""

    @property
    def num_scenes(self) -> int:
        """Scenes; each has ten questions."""

    @property
    def max_new_tokens(self) -> int:
        """Tokens of an answer at most."""


class Scenes(Benchmark):
    """Questions of five types and detailed captions about pictures that croc draws from a seed."""

    name = "scenes"
    title = "Scenes"
    folder = "scenes"
    split = "test"
    size = 3060  # of 100 scenes: ten questions in three variants each, and 60 captions
    metric = "mean accuracy"
    is_drawn = True
    num_scenes = 100

    def with_settings(self, settings: SceneSettings) -> Benchmark:
        """Return the benchmark with so many scenes, and with answers so long."""
        other = copy.copy(self)
        other.num_scenes = settings.num_scenes
        other.max_new_tokens = settings.max_new_tokens
        other.size = len(other.read(Path()))
        return other

    def read(self, root: Path) -> list[Record]:
        """Return a record for each variant of each question, then the captions; the root holds nothing of it."""
        del root
        from croc_cli.demo.evaluation import evaluation_records

        return [
            _record(row, variant)
            for row in evaluation_records(num_scenes=self.num_scenes)
            for variant in (VARIANTS if row["kind"] == "question" else VARIANTS[:1])
        ]

    def lacks(self, root: Path) -> list[str]:
        """Return nothing: its pictures are drawn."""
        del root
        return []

    def unit(self, record: Record) -> str:
        """Return a record's scene: baselines compare questions about one scene."""
        return str(record.extra["row"]["scene_index"])

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Score the answers; `parts` holds accuracy by type, the baselines and what captions name.

        Raises:
            BenchmarkDataError: No question about its own picture is answered.
        """
        rows = _answered_rows(records, answers)
        asked = [row for row in rows if row["kind"] == "question"]
        if not asked:
            raise BenchmarkDataError(f"{self.name}: no question about its own picture is answered")
        parts = score_rows(rows)
        right = {row["question_id"]: float(first_word(row["text"]) == row["answer"]) for row in asked}
        items = [
            right.get(record.extra["row"]["question_id"]) if record.extra["variant"] == VARIANTS[0] else None
            for record in records
        ]
        kinds = [row["type"] for row in asked]
        statistic = partial(_weighted_mean, kinds=kinds, right=[right[row["question_id"]] for row in asked])
        return Score(self.metric, Headline(100 * parts["mean_accuracy"], len(asked), statistic), items, parts)

    def example(self, records: Sequence[Record], answers: Sequence[str]) -> tuple[Picture, dict[str, Any]] | None:
        """Return the first question about a colour, whether the model was right or not."""
        for record, answer in zip(records, answers, strict=True):
            if record.extra["row"].get("type") == "colour" and record.extra["variant"] == VARIANTS[0]:
                assert record.picture is not None
                return record.picture, {"question": record.prompt, "answer": answer, "expected": record.answer}
        return None


def _record(row: dict[str, Any], variant: str) -> Record:
    key = f"{row['question_id']}/{variant}"
    prompt = row["question"].replace(IMAGE_TOKEN, "").strip()
    return Record(key, key, prompt, _picture(row, variant), row["answer"], {"row": row, "variant": variant})


def _picture(row: Mapping[str, Any], variant: str) -> Picture:
    from croc_cli.demo.evaluation import evaluation_image

    if variant == "no_picture":
        return Picture("", draw=_blank, is_blank=True)
    image = evaluation_image(row["swapped_scene_index" if variant == "another_picture" else "scene_index"])
    return Picture(image.name, draw=image.open)


def _blank() -> Image.Image:
    from PIL import Image

    from croc_cli.demo.scenes import IMAGE_SIZE

    return Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (128, 128, 128))


def _answered_rows(records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
    """Return what was asked with the answers: `text` and, for questions, each variant's under its name.

    A question whose own picture was not answered is left out.
    """
    given: dict[str, dict[str, str]] = {}
    for record, answer in zip(records, answers, strict=True):
        given.setdefault(record.extra["row"]["question_id"], {})[record.extra["variant"]] = answer
    rows = {record.extra["row"]["question_id"]: record.extra["row"] for record in records}
    return [
        row | {"text": given[name][VARIANTS[0]]} | given[name]
        for name, row in rows.items()
        if VARIANTS[0] in given[name]
    ]


def _weighted_mean(weights: np.ndarray, *, kinds: Sequence[str], right: Sequence[float]) -> float:
    """Return the mean over types of the share of right answers, in percent, each question counting by its weight."""
    import numpy as np

    names, places = np.unique(kinds, return_inverse=True)
    totals = np.bincount(places, weights, len(names))
    hits = np.bincount(places, weights * np.asarray(right), len(names))
    return float(100 * np.mean(hits[totals > 0] / totals[totals > 0]))
