"""Scores the demo's held-out questions and captions, beside the baselines that a model without sight would reach.

Pure functions over the records that `croc_cli.demo.evaluation` makes and the predictions that were saved for them:
scoring again takes no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
    """Score the rows of predictions/scenes.jsonl.

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
    """Return the baselines: name → question type → share of right answers; those that rows have no answers for are out.

    Raises:
        KeyError: The other question about a picture is missing.
    """
    said = {row["question_id"]: row["text"] for row in questions}
    baselines = {
        "other_question": _share_by_type(
            (row["type"], first_word(said[row["other_question_id"]]) == row["answer"]) for row in questions
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
