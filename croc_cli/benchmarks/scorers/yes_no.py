"""Yes or no: POPE's and MME's readings of an answer, and their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from croc_cli.benchmarks.scorers.vqa import drop_punctuation

_NO_WORDS = {"No", "not", "no"}


def pope_answer(text: str) -> Literal["yes", "no"]:
    """Return how POPE reads an answer: its first sentence says no, or it counts as yes."""
    words = text.split(".", 1)[0].replace(",", "").split(" ")
    return "no" if _NO_WORDS & set(words) else "yes"


def lmms_answer(text: str) -> Literal["yes", "no", "other"]:
    """Return how lmms-eval reads an answer to POPE: yes or no alone, outer spaces and case aside."""
    bare = text.strip().lower()
    if bare == "yes":
        return "yes"
    return "no" if bare == "no" else "other"


def vlmevalkit_answer(text: str) -> Literal["yes", "no", "other"]:
    """Return how VLMEvalKit reads an answer to POPE and MME: one of the two words anywhere, and not the other one."""
    words = drop_punctuation(text.lower()).split()
    if "yes" in words:
        return "other" if "no" in words else "yes"
    return "no" if "no" in words else "other"


def mme_answer(text: str) -> Literal["yes", "no", "other"]:
    """Return how MME reads an answer: by its first four characters, the line's end included."""
    tail = f"{text}\n".lower()
    start = tail if tail in ("yes", "no") else tail[:4]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


def binary_metrics(answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Return POPE's metrics of one subset, yes being the positive class.

    Precision, recall and F1 are 0 where their denominator is.

    Args:
        answers: "yes" or "no", as read.
        labels: "yes" or "no".

    Returns:
        samples, TP, FP, TN, FN, accuracy, precision, recall, f1, yes_ratio (share of predicted yes).
    """
    pairs = list(zip(answers, labels, strict=True))
    true_positive, false_positive = pairs.count(("yes", "yes")), pairs.count(("yes", "no"))
    true_negative, false_negative = pairs.count(("no", "no")), pairs.count(("no", "yes"))
    precision = _ratio(true_positive, true_positive + false_positive)
    recall = _ratio(true_positive, true_positive + false_negative)
    return {
        "samples": len(pairs),
        "TP": true_positive,
        "FP": false_positive,
        "TN": true_negative,
        "FN": false_negative,
        "accuracy": _ratio(true_positive + true_negative, len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": _ratio(true_positive + false_positive, len(pairs)),
    }


def mme_score(hits_by_image: Sequence[Sequence[bool]]) -> float:
    """Return a subtask's score, at most 200: percent of questions right plus percent of images with all right."""
    questions = [hit for hits in hits_by_image for hit in hits]
    if not questions:
        return 0.0
    return 100 * sum(questions) / len(questions) + 100 * sum(all(hits) for hits in hits_by_image) / len(hits_by_image)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
