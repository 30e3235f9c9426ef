"""VLMEvalKit's protocol for multiple choice: its tables, its prompt for LLaVA models, its reading of answers.

An answer that its exact rule cannot resolve is wrong: VLMEvalKit asks a judge about it, where one is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.base import Record
from croc_cli.benchmarks.decode import BenchmarkDataError, take, take_text
from croc_cli.benchmarks.prompts import DIRECT_ANSWER, LETTER_ANSWER
from croc_cli.benchmarks.scorers.choices import LETTERS, vlmevalkit_letter
from croc_cli.benchmarks.tables import is_missing, read_tsv, tsv_pictures

VARIANT = "vlmevalkit"
ABOUT = "VLMEvalKit's prompt and exact rule (can_infer of August 2025); unresolved answers are wrong"
OTHER_ANSWERS = "Other Answers"
"""The second option that VLMEvalKit gives an open question; its first is the right answer."""

_OPTION_LINE = re.compile(r"^\s*([A-Z])\. +(.*?)\s*$", re.MULTILINE)
_INSTRUCTION = re.compile(r"\s*Please answer directly with[^\n]*\s*$")


def choice_prompt(question: str, options: Mapping[str, str]) -> str:
    """Return what VLMEvalKit asks a LLaVA model."""
    lines = "".join(f"\n{letter}. {option}" for letter, option in options.items())
    return question + lines + (LETTER_ANSWER if options else DIRECT_ANSWER)


def options_of_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a table's row by letter."""
    return {letter: str(row[letter]) for letter in LETTERS if not is_missing(row.get(letter))}


def read_choices(file: Path) -> list[Record]:
    """Return the questions of one of VLMEvalKit's tables: index, question, A, B, …, answer, image.

    Raises:
        BenchmarkDataError: A row lacks a field or has no picture.
    """
    records = []
    rows = read_tsv(file)
    for (where, row), pictures in zip(rows, tsv_pictures(rows), strict=True):
        index, options = str(take(row, "index", where)), options_of_row(row)
        question = take_text(row, "question", where)
        if not is_missing(hint := row.get("hint")):
            question = f"{hint}\n{question}"
        answer = take_text(row, "answer", where).strip()
        if options and answer not in options:
            raise BenchmarkDataError(f"{where}: answer {answer[:60]!r}, expected one of {', '.join(options)}")
        kept = {name: row[name] for name in ("category", "l2_category", "l2-category") if row.get(name) is not None}
        written = int(index) if index.isdecimal() else index
        extra = {"options": options, **kept}
        prompt = choice_prompt(question, options)
        records.append(Record(index, written, prompt, pictures[0], answer, extra, pictures[1:]))
    return records


def split_options(question: str) -> tuple[str, dict[str, str]]:
    """Return a hub question without its options and instruction, and the options by letter; none where it has none.

    MMStar has `Options: A: …, B: …` behind the question, RealWorldQA a line `A. …` for each.
    """
    question = _INSTRUCTION.sub("", question).strip()
    head, mark, tail = question.rpartition("Options:")
    if mark and (options := _inline_options(tail)):
        return head.strip(), options
    lines = list(_OPTION_LINE.finditer(question))
    if [line[1] for line in lines] != list(LETTERS[: len(lines)]) or len(lines) < 2:
        return question, {}
    return question[: lines[0].start()].strip(), {line[1]: line[2] for line in lines}


def _inline_options(text: str) -> dict[str, str]:
    """Return the options of `A: one, B: two`; a comma within an option belongs to it."""
    starts: list[re.Match[str]] = []
    for letter in LETTERS:
        begins = r"\s*" if not starts else r"[,\n]\s*"
        match = re.compile(rf"{begins}{letter}: ").search(text, starts[-1].end() if starts else 0)
        if match is None or (not starts and match.start() != 0):
            break
        starts.append(match)
    ends = [*(match.start() for match in starts[1:]), len(text)]
    if len(starts) < 2:
        return {}
    return {letter: text[match.end() : end].strip() for letter, match, end in zip(LETTERS, starts, ends, strict=False)}


@dataclass(frozen=True)
class KitReading:
    """Answers as VLMEvalKit reads them.

    Attributes:
        hits: 1 for each right answer, 0 for each other one.
        num_unresolved: Answers that its exact rule cannot resolve.
    """

    hits: list[float]
    num_unresolved: int


def read_by_kit(records: Sequence[Record], answers: Sequence[str]) -> KitReading:
    """Read answers to questions with options by VLMEvalKit's exact rule.

    Args:
        records: Their `extra` has `options` by letter; without any, `gold` or the answer's text is the first of two.
        answers: One for each record.
    """
    letters, hits = [], []
    for record, answer in zip(records, answers, strict=True):
        options, truth = record.extra["options"], record.answer
        if not options:
            options, truth = {"A": record.extra.get("gold", str(truth)), "B": OTHER_ANSWERS}, "A"
        letters.append(vlmevalkit_letter(answer, options))
        hits.append(float(letters[-1] == truth))
    return KitReading(hits, letters.count(None))
