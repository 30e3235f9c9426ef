"""MMMU's official rules: the option that a reply means, and texts and numbers of an open answer (MMMU's eval_utils)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_STRIPPED = ",.!?;:'"
_FEW_WORDS = 5
"""In replies of no more words, options are told by letters alone."""
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""With commas, scientific, plain."""


def mmmu_letter(text: str, options: Mapping[str, str]) -> str | None:
    """Return the option that an answer means, or None where it names none and the official script guesses.

    Args:
        text: The answer.
        options: Letter → text.
    """
    for mark in _STRIPPED:
        text = text.strip(mark)
    text = f" {text} "
    for found, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if letters := [letter for letter in options if found.format(letter) in text]:
            # Of several, the one that stands last; the first of them where none stands in this form.
            return max(letters, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) <= _FEW_WORDS:
        return None
    lowered = text.lower()
    named = [letter for letter, option in options.items() if option.lower() in lowered]
    return max(named, key=lambda letter: lowered.rfind(options[letter].lower()), default=None)


def mmmu_open_is_right(text: str, answers: Sequence[str]) -> bool:
    """Tell whether an answer to an open question contains a right text or is, or names, a right number.

    Args:
        text: The answer.
        answers: The right texts and numbers.
    """
    right = [one for answer in answers for one in _normalised(answer)]
    texts = [one for one in right if isinstance(one, str)]
    for said in _open_answers(text):
        if isinstance(said, str):
            if any(one in said for one in texts):
                return True
        elif said in right:
            return True
    return False


def _open_answers(text: str) -> list[str | float]:
    """Return what an open answer may say: its concluding parts, and the numbers in them."""
    parts = _concluding_parts(text)
    numbers = [number for part in parts for pattern in _NUMBERS for number in pattern.findall(part)]
    return [one for said in [*parts, *numbers] for one in _normalised(said)]


def _concluding_parts(text: str) -> list[str]:
    """Return of each line what follows a word that concludes, the shortest; the whole answer where there is none."""
    whole = text.strip().strip(".").lower()
    lines = whole.split("\n")
    found = []
    for number, line in enumerate(lines, start=1):
        shortest = ""
        # The last line may be an equation.
        for indicator in (*_INDICATORS, "=") if number == len(lines) else _INDICATORS:
            if indicator in line:
                tail = line.split(indicator)[-1].strip()
                shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and shortest not in _TRIVIAL:
            found.append(shortest)
    return found or [whole]


def _normalised(text: str) -> list[str | float]:
    """Return a number rounded to two digits, or a text in lower case; a letter alone gets a space before or after."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except (ValueError, OverflowError):
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]
