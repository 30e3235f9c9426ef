"""The errors that users can fix: one line of what is wrong, a hint, an exit code."""

import re

EXIT_RUN_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
HINT_NOTE = "hint: "
"""What the hint begins with in the text of a traceback."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says; its type's name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """Return all that a library says of a file, in one line; its type's name where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def handed_on(text: str) -> tuple[str, str | None]:
    """Return message and hint of a `CrocError` from the text in which torch hands it on from a loader process.

    That text is a whole traceback; its last part is the error's class, its message and, from Python 3.11, its hint.
    Any other text is a message.
    """
    if "Original Traceback (most recent call last)" not in text:
        return text, None
    start = max((match.end() for match in re.finditer(r"^croc_cli\.[\w.]+: ", text, re.MULTILINE)), default=None)
    if start is None:
        return text, None
    message, _, hint = text[start:].strip().partition(f"\n{HINT_NOTE}")
    return message, hint or None


class CrocError(Exception):
    """Something a user can fix; shown as one line and a `hint:`, never as a traceback.

    Args:
        message: What is wrong, with the value and what was expected.
        hint: The next step, without the word "hint".
    """

    exit_code = EXIT_RUN_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint and hasattr(self, "add_note"):  # a loader process hands on nothing but a traceback's text
            self.add_note(f"{HINT_NOTE}{hint}")


class UsageError(CrocError):
    """Wrong arguments, files or folders; exit code 2."""

    exit_code = EXIT_USAGE


class RecipeError(UsageError):
    """A recipe that cannot be run as written; exit code 2."""


class RunError(CrocError):
    """A run that started and failed; exit code 1."""


class Interrupted(CrocError):
    """The user or the scheduler asked the run to stop, and it saved; exit code 130."""

    exit_code = EXIT_INTERRUPTED
