"""Words for people: numbers with the right form of their noun, lines that break between words."""

import re


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 sample`, `2 samples`, `1,000 images`.

    Args:
        number: How many.
        singular: The noun for one.
        plural: The noun for any other number; left out: the singular with an s.
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def wrapped(text: str, *, width: int) -> str:
    """Return a message whose lines break between words, so that a terminal does not break them inside one.

    What stands in backticks is a command to type, and stays in one piece; what is longer than a line is left to the
    terminal. Lines with columns, told by two spaces between words, stay as they are.

    Args:
        text: One line or several.
        width: Columns of the terminal.
    """
    return "\n".join(_wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line: str, width: int) -> str:
    text = line.lstrip()
    if len(line) <= width or "  " in text:
        return line
    indent = line[: len(line) - len(text)]
    rows = [""]
    for word in re.findall(r"[^\s`]*`[^`]+`\S*|\S+", text):
        if rows[-1] and len(indent) + len(rows[-1]) + 1 + len(word) > width:
            rows.append(word)
        else:
            rows[-1] += f" {word}" if rows[-1] else word
    return "\n".join(indent + row for row in rows)
