"""One question to several models, their answers side by side."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from croc_cli.chat.images import load_image
from croc_cli.chat.start import ChatRequest, answer_once, find_model, open_session
from croc_cli.console import result, say

LEAST_COLUMN = 24
"""Characters that a column needs to be read; with less, answers stand below each other."""


@dataclass(frozen=True)
class ModelAnswer:
    """What one model said.

    Args:
        model: As the user named it.
        answer: Its answer.
    """

    model: str
    answer: str


def compare_answers(request: ChatRequest, models: Sequence[str]) -> list[ModelAnswer]:
    """Return the answer of every model; one model is in memory at a time.

    Args:
        request: Picture, question and settings; `model` is not read.
        models: Folders or hub ids.

    Raises:
        UsageError: A picture or a model cannot be opened; all models are looked at before the first is loaded.
    """
    assert request.prompt is not None, "the command requires a question"
    image = load_image(request.image, allow_private=request.allow_private) if request.image else None
    folders = [find_model(ChatRequest(model=name)) for name in models]
    answers = []
    for name, folder in zip(models, folders, strict=True):
        say(f"asking {name}")
        answers.append(ModelAnswer(name, answer_once(open_session(request, folder), request.prompt, image)))
    return answers


def show_answers(answers: Sequence[ModelAnswer]) -> None:
    """Print answers in columns on a terminal that is wide enough, else below each other."""
    width = shutil.get_terminal_size().columns
    column = (width - 2 * (len(answers) - 1)) // len(answers)
    if not sys.stdout.isatty() or column < LEAST_COLUMN:
        for one in answers:
            result(f"{one.model}\n{textwrap.indent(one.answer, '  ')}\n")
        return
    cells = [
        [
            *textwrap.wrap(one.model, column),
            "-" * column,
            *(part for line in one.answer.splitlines() for part in textwrap.wrap(line, column) or [""]),
        ]
        for one in answers
    ]
    heads = max(cell.index("-" * column) for cell in cells)
    padded = [[""] * (heads - cell.index("-" * column)) + cell for cell in cells]
    for row in range(max(map(len, padded))):
        result("  ".join((cell[row] if row < len(cell) else "").ljust(column) for cell in padded).rstrip())
