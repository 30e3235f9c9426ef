"""Whether two prompts ask the same question: instructions, case and spacing aside."""

from __future__ import annotations

import re

from croc_cli.names import IMAGE_TOKEN

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""LLaVA-1.5's suffix of questions with short answers."""
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."
"""LLaVA-1.5's suffix of multiple-choice questions."""
DIRECT_ANSWER = "\nAnswer the question directly."
"""VLMEvalKit's suffix of questions without options."""
CHINESE_LETTER_ANSWER = "\n请直接回答选项字母。"
"""LETTER_ANSWER of MMBench-CN."""
UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
"""What LLaVA adds to VizWiz's questions."""
OCR_LINE = "Reference OCR token: "
"""How the line of OCR tokens in LLaVA's TextVQA prompts begins."""
YES_OR_NO = "Please answer yes or no."
"""What MME's own questions end with, and LLaVA takes away."""

_PICTURE = re.compile(rf"{IMAGE_TOKEN}|<image \d+>")
"""Where a picture stands, in croc's prompts and in MMMU's."""
_OPTION = re.compile(r"[a-z]\. ")
_SHOWN = 60


def same_question(asked: str, prompt: str, question: str | None = None) -> bool:
    """Tell whether a prompt asks what another one asks.

    Args:
        asked: The prompt that an answer was made with, or the question alone.
        prompt: The prompt of a record.
        question: The record's question where it is known apart from hint and options.
    """
    theirs, ours = _lines(asked), _lines(prompt)
    bare = [line for line in ours if not _OPTION.match(line) and not line.startswith("context: ")]
    accepted = [ours, bare] if question is None else [ours, bare, _lines(question)]
    return " ".join(theirs) in [" ".join(lines) for lines in accepted]


def shown(prompt: str) -> str:
    """Return a prompt on one line, shortened, for messages."""
    text = " / ".join(line.strip() for line in prompt.replace(IMAGE_TOKEN, "").splitlines() if line.strip())
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _lines(prompt: str) -> list[str]:
    """Return the lines that hold the question and its options, in lower case with single spaces."""
    lines = (_plain(line) for line in _PICTURE.sub("\n", prompt).split("\n"))
    return [line for line in lines if line and line.rstrip(".") not in _INSTRUCTIONS and not line.startswith(_OCR)]


def _plain(line: str) -> str:
    return " ".join(line.casefold().split()).removesuffix(_YES_OR_NO).rstrip()


_YES_OR_NO = YES_OR_NO.casefold()
_OCR = OCR_LINE.strip().casefold()
_INSTRUCTIONS = frozenset(
    " ".join(text.casefold().split()).rstrip(".")
    for text in (SHORT_ANSWER, LETTER_ANSWER, DIRECT_ANSWER, CHINESE_LETTER_ANSWER, UNANSWERABLE)
)
