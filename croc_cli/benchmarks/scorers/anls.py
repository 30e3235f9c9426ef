"""ANLS, the average normalised Levenshtein similarity of DocVQA, as the organisers' script computes it."""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5
"""A similarity below it counts as 0."""


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Return the thresholded similarity to the nearest reference, in [0, 1].

    The distance is taken between lower-cased texts with single spaces; the length is that of the longer raw text after
    upper-casing, where one letter may become two.
    """
    if not answers:
        return 0.0
    similarity = 1.0 - min(_distance_share(prediction, answer) for answer in answers)
    return similarity if similarity >= THRESHOLD else 0.0


def _distance_share(one: str, other: str) -> float:
    length = max(len(one.upper()), len(other.upper()))
    return levenshtein(_collapse(one), _collapse(other)) / length if length else 0.0


def _collapse(text: str) -> str:
    return " ".join(text.lower().split())


def levenshtein(one: str, other: str) -> int:
    """Return the least number of insertions, deletions and substitutions that make one text the other."""
    if len(one) < len(other):
        one, other = other, one
    row = list(range(len(other) + 1))
    for position, character in enumerate(one, start=1):
        diagonal, row[0] = row[0], position
        for index, other_character in enumerate(other, start=1):
            replaced = diagonal + (character != other_character)
            diagonal = row[index]
            row[index] = min(replaced, row[index] + 1, row[index - 1] + 1)
    return row[-1]
