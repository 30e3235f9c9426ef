"""Scores the demo's held-out questions and captions, beside the baselines that a model without sight would reach.

Pure functions over the records that `croc_cli.demo.evaluation` makes and the predictions that were saved for them:
scoring again takes no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BASELINES = ("swapped_picture", "other_question", "most_common_answer", "best_blind_rule")
"""What stands beside each accuracy: the model shown another picture, the model's answer to another question about the
same picture, the most common answer, and the best rule that looks at the scene and never at the question."""
BLIND_BASELINES = ("most_common_answer", "best_blind_rule")
"""The baselines that need no question; an accuracy has to stand clear of the better one."""

_MEAN = "mean"


def first_word(text: str) -> str:
    """Return the first word of an answer in lower case, without punctuation; empty where there is none."""
    match = re.search(r"[a-z]+|\d+", text.lower())
    return match.group() if match else ""


def accuracy_by_type(records: Iterable[Mapping[str, Any]], predictions: Mapping[str, str]) -> dict[str, float]:
    """Return the share of right answers for every question type, and their mean under "mean".

    Args:
        records: Evaluation records; caption records are passed over.
        predictions: Question id → what the model said.

    Raises:
        KeyError: A question has no prediction.
    """
    return _share_by_type(
        (record["type"], first_word(predictions[record["question_id"]]) == record["answer"])
        for record in _questions(records)
    )


def baselines_by_type(
    records: Iterable[Mapping[str, Any]],
    predictions: Mapping[str, str],
    swapped_predictions: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the four baselines: name → question type → share of right answers, the mean over types under "mean".

    Args:
        records: Evaluation records; caption records are passed over.
        predictions: Question id → what the model said.
        swapped_predictions: Question id → what the model said to the picture of `swapped_scene_index`; without them
            the baseline `swapped_picture` is left out.

    Raises:
        KeyError: A question has no prediction.
    """
    questions = _questions(records)
    baselines = {
        "other_question": _share_by_type(
            (record["type"], first_word(predictions[record["other_question_id"]]) == record["answer"])
            for record in questions
        ),
        "most_common_answer": _best_constant(questions),
        "best_blind_rule": _best_rule(questions),
    }
    if swapped_predictions is not None:
        baselines["swapped_picture"] = accuracy_by_type(questions, swapped_predictions)
    return {name: baselines[name] for name in BASELINES if name in baselines}


def margins_over_blind(accuracy: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return, for every type, by how much the accuracy exceeds the better question-blind baseline."""
    return {
        question_type: share - max(baselines[name][question_type] for name in BLIND_BASELINES)
        for question_type, share in accuracy.items()
    }


def caption_recall(records: Iterable[Mapping[str, Any]], predictions: Mapping[str, str]) -> float:
    """Return the share of the objects that their pictures' captions name with the right colour ("a red star").

    Args:
        records: Evaluation records; questions are passed over.
        predictions: Question id → caption.

    Raises:
        KeyError: A caption record has no prediction.
        ValueError: There is no caption record.
    """
    named = [
        re.search(rf"\b{colour} {shape}\b", predictions[record["question_id"]].lower()) is not None
        for record in records
        if record["kind"] == "caption"
        for shape, colour in record["objects"]
    ]
    if not named:
        raise ValueError("no caption records to score")
    return sum(named) / len(named)


def scene_scores(
    records: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, str],
    swapped_predictions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return everything that is reported about a model: accuracies, baselines, margins, held-out pairs, captions.

    Args:
        records: Evaluation records.
        predictions: Question id → what the model said, captions included.
        swapped_predictions: See `baselines_by_type`.

    Raises:
        KeyError: A record has no prediction.
    """
    accuracy = accuracy_by_type(records, predictions)
    baselines = baselines_by_type(records, predictions, swapped_predictions)
    scores: dict[str, Any] = {
        "num_questions": dict(Counter(record["type"] for record in _questions(records))),
        "accuracy": accuracy,
        "baselines": baselines,
        "margin_over_blind": margins_over_blind(accuracy, baselines),
        "accuracy_on_held_out_pairs": accuracy_by_type(
            [record for record in _questions(records) if record["names_held_out_pair"]], predictions
        ),
    }
    if any(record["kind"] == "caption" for record in records):
        scores["caption_recall"] = caption_recall(records, predictions)
    return scores


def _questions(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in records if record["kind"] == "question"]


def _share_by_type(outcomes: Iterable[tuple[str, bool]]) -> dict[str, float]:
    by_type: dict[str, list[bool]] = {}
    for question_type, is_right in outcomes:
        by_type.setdefault(question_type, []).append(is_right)
    return _with_mean({question_type: sum(found) / len(found) for question_type, found in by_type.items()})


def _best_constant(questions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    answers: dict[str, Counter[str]] = {}
    for record in questions:
        answers.setdefault(record["type"], Counter())[record["answer"]] += 1
    return _with_mean({name: counter.most_common(1)[0][1] / counter.total() for name, counter in answers.items()})


def _best_rule(questions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    right: dict[str, Counter[str]] = {}
    totals = Counter(record["type"] for record in questions)
    for record in questions:
        hits = (rule for rule, answer in record["blind_answers"].items() if answer == record["answer"])
        right.setdefault(record["type"], Counter()).update(hits)
    return _with_mean({name: max(counter.values(), default=0) / totals[name] for name, counter in right.items()})


def _with_mean(shares: dict[str, float]) -> dict[str, float]:
    return {**shares, _MEAN: sum(shares.values()) / len(shares)} if shares else {}
