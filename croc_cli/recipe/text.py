"""Which texts a recipe may hold: no control characters, no paths that no file can have, only patterns that compile."""

import re

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4095
"""Of Linux and macOS: NAME_MAX and PATH_MAX without the byte that ends a path."""


def check_text(text: str) -> str:
    """Return a text, or raise ValueError where it has a control character or half a surrogate pair."""
    for letter in text:
        if (letter < " " and letter not in "\t\n\r") or letter == "\x7f" or "\ud800" <= letter <= "\udfff":
            raise ValueError(f"must not hold the character {letter!r}")
    return text


def check_path(text: str) -> str:
    """Return a path, a hub id or a name, or raise ValueError where no file can be called so."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_PATH_BYTES or any(
        len(part.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES for part in text.split("/")
    ):
        raise ValueError(f"is no path that a file can have: a name has {MAX_NAME_BYTES} bytes at most, this {size:,}")
    return text


def check_pattern(text: str) -> str:
    """Return a regular expression, or raise ValueError where it is none."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"must be a regular expression: {error}") from error
    return text
