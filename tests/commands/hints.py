"""The commands that hints, notes and help texts show, found in the package's own code."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "croc_cli"
_COMMAND = re.compile(r"`(croc [^`]+)`")


@dataclass(frozen=True)
class Shown:
    """A command that users are shown.

    Args:
        place: File and line.
        text: As it is written; what is put into it stands in braces.
    """

    place: str
    text: str


def shown_commands() -> Iterator[Shown]:
    """Yield every command in backticks in the package's strings; docstrings are read by nobody who types."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = set(_docstrings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                skipped.update(id(part) for part in node.values)
            text = _text(node)
            if text is None or id(node) in skipped:
                continue
            for command in _COMMAND.findall(text):
                yield Shown(f"{path.relative_to(PACKAGE)}:{node.lineno}", command)  # type: ignore[attr-defined]


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (
            str(part.value) if isinstance(part, ast.Constant) else "{" + ast.unparse(getattr(part, "value", part)) + "}"
            for part in node.values
        )
        return "".join(parts)
    return None


def _docstrings(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield id(node.value)
