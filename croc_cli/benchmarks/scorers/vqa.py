"""VQA accuracy in its three dialects: VQAv2's server, TextVQA's (m4c) and VizWiz's.

The normalisation has the steps of the public evaluators (VQA API, VizWiz API, LLaVA's m4c evaluator), quirks included:
scores on leaderboards contain them.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_ENOUGH_ANNOTATORS = 3
"""An answer that so many of the other annotators gave is fully right."""
_MOST_PERIODS = 32  # the evaluators pass a regex flag where the count of replacements goes, and the flag's value is 32
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads((Path(__file__).parent / "vqa_tables.json").read_text(encoding="utf-8"))
    return tables


def clean_words(text: str) -> str:
    """Lower-case, drop commas and question marks, and set a possessive 's apart: m4c's first step."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return text.replace("\n", " ").replace("\t", " ").strip()


def drop_punctuation(text: str) -> str:
    """Remove each punctuation mark, or put a space in its place, by where it stands in the text."""
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _tables()["punctuation_in_order"]:
        if mark not in text:
            continue
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside_space or has_number else " ")
    return _PERIOD.sub("", result, count=_MOST_PERIODS)


def normalise_words(text: str, *, contractions: Mapping[str, str] | None = None) -> str:
    """Write number words as digits, drop articles and restore contractions' apostrophes.

    Args:
        text: The text.
        contractions: Which; by default those of the VQA API.
    """
    tables = _tables()
    contractions = tables["contractions"] if contractions is None else contractions
    words = (tables["number_words"].get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in tables["articles"])


def normalise_m4c(text: str) -> str:
    """Return the answer in m4c's full normalisation, which submissions to VQAv2 and VizWiz hold."""
    return normalise_words(drop_punctuation(clean_words(text)))


def consensus_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the mean over annotators of min(1, equal answers among the others / 3).

    Args:
        prediction: Normalised as the answers are.
        answers: One of each annotator, usually ten.
    """
    equal = sum(answer == prediction for answer in answers)
    without_self = min(1.0, (equal - 1) / _ENOUGH_ANNOTATORS) if equal else 0.0
    with_all = min(1.0, equal / _ENOUGH_ANNOTATORS)
    return (equal * without_self + (len(answers) - equal) * with_all) / len(answers) if answers else 0.0


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the accuracy of one answer as VQAv2's server computes it; it normalises only where annotators differ."""
    given = [_one_line(answer) for answer in answers]
    prediction = _one_line(prediction)
    if len(set(given)) > 1:
        prediction, *given = _normalise_all((prediction, *given))
    return consensus_accuracy(prediction, given)


def vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the accuracy of one answer as the VizWiz API does, which leaves the annotators' as they are."""
    words = drop_punctuation(_one_line(prediction))
    normalised = normalise_words(words, contractions=_tables()["vizwiz_contractions"])
    return consensus_accuracy(normalised, list(answers))


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the accuracy of one answer with both sides in m4c's normalisation."""
    return consensus_accuracy(_cached_m4c(prediction), [_cached_m4c(answer) for answer in answers])


def mean_by(groups: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """Return the mean score in percent of each group, groups in order of appearance."""
    totals: defaultdict[str, float] = defaultdict(float)
    for group, score in zip(groups, scores, strict=True):
        totals[group] += score
    sizes = Counter(groups)
    return {group: 100.0 * totals[group] / sizes[group] for group in sizes}


@cache
def _cached_official(text: str) -> str:
    return normalise_words(drop_punctuation(text))


@cache
def _cached_m4c(text: str) -> str:
    return normalise_m4c(text)


def _normalise_all(texts: Sequence[str]) -> list[str]:
    return [_cached_official(text) for text in texts]


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
