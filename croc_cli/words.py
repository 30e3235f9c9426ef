"""Words for people: numbers with the right form of their noun, lines that break, no control characters."""

import re

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What steers a terminal, or the direction of what is written, and halves that no encoding can write."""
_RUNS_IN_A_TABLE = ("=", "+", "-", "@", "\t", "\r")


def shown(text: str) -> str:
    """Return a text with control characters written as escapes, so that data and names steer no terminal.

    Line ends and tabs stay.
    """
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1] if found[0] > "\x7f" or found[0] < " " else "\\x7f", text)


def table_cell(cell: object) -> object:
    """Return a cell of a CSV file, text that a spreadsheet would run as a formula with an apostrophe before it."""
    if not isinstance(cell, str) or not cell.lstrip(" ").startswith(_RUNS_IN_A_TABLE):
        return cell
    try:
        float(cell.replace(",", "").removesuffix("%"))
    except ValueError:
        return f"'{cell}"
    return cell


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 sample`, `2 samples`, `1,000 images`.

    Args:
        number: How many.
        singular: The noun for one.
        plural: The noun for any other number; default: the singular with an s.
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
