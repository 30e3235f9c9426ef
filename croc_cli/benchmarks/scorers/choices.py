"""From an answer's text to the option it means, by the rule of each multiple-choice benchmark.

They disagree on purpose here: each is the rule behind the published numbers of its benchmark.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
REFUSED = "Z"
"""What MMBench's rule reads where a model refuses to answer."""

_SCIENCE_LETTERS = "ABCDE"
_SCIENCE_SENTENCE = re.compile(r"The answer is ([A-Z]).")
_FAILED = "Failed to obtain answer via API"  # what VLMEvalKit writes where an answer should be
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_OPTION_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LETTER_AND_PERIOD = re.compile(r"^\s*([A-Z])\.")
_OPTION_LINE = re.compile(r"\b([A-Z])\.\s+([^\n]*)")
_NO_WORD = re.compile(r"[^\w\s]")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_MMSTAR_OPENINGS = ("", "(", "option ", "the answer is ")


def scienceqa_letter(text: str) -> str | None:
    """Return the letter of a ScienceQA answer by LLaVA's rule, or None where there is none to read."""
    if text in tuple(_SCIENCE_LETTERS):
        return text
    if len(text) >= 3 and text[0] in _SCIENCE_LETTERS and text[1:3] == ". ":
        return text[0]
    found: list[str] = _SCIENCE_SENTENCE.findall(text)
    return found[0] if len(found) == 1 else None


def mmbench_letter(text: str, options: Mapping[str, str]) -> str | None:
    """Return the option that an MMBench answer means by VLMEvalKit's exact rule of 2024, REFUSED, or None: unresolved.

    Args:
        text: The answer.
        options: Letter → text.
    """
    if _FAILED in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    tokens = set(_words(text))
    letters = [letter for letter in options if letter in tokens]
    if len(letters) == 1:
        return letters[0]
    if not letters and REFUSED in tokens:
        return REFUSED
    return _option_named_in(text.lower(), options)


def vlmevalkit_letter(text: str, options: Mapping[str, str]) -> str | None:
    """Return the option that an answer means by VLMEvalKit's exact rule since 2025-08-04, REFUSED, or None: unresolved.

    The rule is `can_infer` of VLMEvalKit at c3371551. A letter counts where it is the only one, and first stands among
    the last four words. An option's text is looked for in answers that are at most twice as long as all options.

    Args:
        text: The answer.
        options: Letter → text.
    """
    if _FAILED not in text:
        if any(refusal in text for refusal in _REFUSALS):
            return REFUSED
        words = _words(text)
        letters = [letter for letter in options if letter in words]
        if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
            return letters[0]
        if not letters and REFUSED in words:
            return REFUSED
    lowered = text.lower()
    if len(lowered) > 2 * sum(map(len, options.values())):
        return None
    return _option_named_in(lowered, options)


def _words(text: str) -> list[str]:
    return text.translate(_OPTION_MARKS).split()


def _option_named_in(lowered: str, options: Mapping[str, str]) -> str | None:
    named = [letter for letter, option in options.items() if option.lower() in lowered]
    return named[0] if len(named) == 1 else None


def mmstar_is_right(text: str, letter: str) -> bool:
    """Tell whether an MMStar answer begins with the right letter, by the benchmark's own rule."""
    text = text.lower().strip().replace("\n", " ")
    return any(text.startswith(opening + letter.lower()) for opening in _MMSTAR_OPENINGS)


def ai2d_answer(text: str) -> str:
    """Return what lmms-eval's AI2D filter leaves of an answer: the letter before a period, or the text."""
    match = _LETTER_AND_PERIOD.match(text)
    return match.group(1) if match else text


def realworldqa_answer(text: str, question: str) -> str:
    """Return what lmms-eval's RealWorldQA filters leave of an answer.

    Args:
        text: The answer.
        question: With its options as lines such as "A. left"; letters are given by order of appearance.
    """
    if text.lower() in _NUMBER_WORDS:
        text = str(_NUMBER_WORDS.index(text.lower()))
    cleaned = _NO_WORD.sub("", text).strip()
    options: dict[str, str] = {}
    for position, (_, option) in enumerate(_OPTION_LINE.findall(question)):
        options[option.strip()] = LETTERS[position]
    match = re.search("|".join(map(re.escape, options)), cleaned) if options else None
    return options.get(match.group(), cleaned) if match else cleaned


def equals_loosely(one: str, other: str) -> bool:
    """Compare as lmms-eval's exact match does: without case and ASCII punctuation, outer spaces stripped before."""
    return _bare(one) == _bare(other)


def circular_hits(groups: Sequence[int], hits: Sequence[bool]) -> dict[int, bool]:
    """Return for each question whether every pass over its rotated options was right."""
    result: dict[int, bool] = {}
    for group, hit in zip(groups, hits, strict=True):
        result[group] = result.get(group, True) and hit
    return result


def _bare(text: str) -> str:
    return text.strip().lower().translate(_WITHOUT_PUNCTUATION)
