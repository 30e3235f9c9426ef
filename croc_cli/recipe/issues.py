"""What is wrong with a recipe: every issue with its key, its file and line, raised together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from croc_cli.errors import RecipeError

KeyPath = tuple[str, ...]
"""Where a value stands in a recipe: ("reconstruct", "pool", "size")."""


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong.

    Args:
        path: Key that the message is about; empty for the recipe as a whole.
        message: What is wrong, with the value and what would fit.
        origin: Where the value was set, such as "recipes/nano.yaml:12" or "--pool-size"; empty where nothing was set.
        related: Further keys that the statement rests on.
    """

    path: KeyPath
    message: str
    origin: str = ""
    related: tuple[KeyPath, ...] = ()

    def __str__(self) -> str:
        where = f"{self.origin}: " if self.origin else ""
        key = f"{dotted(self.path)}: " if self.path else ""
        return f"{where}{key}{self.message}"

    def at(self, origin: str) -> "Issue":
        """Return the issue with the place where its value was set."""
        return replace(self, origin=origin)


class InvalidRecipe(RecipeError):
    """A recipe with issues, all of them in one error.

    Args:
        source: The recipe's file, as shown to the user.
        issues: At least one.
        hint: The next step.
    """

    def __init__(self, source: str, issues: Sequence[Issue], *, hint: str | None = None) -> None:
        self.source = source
        self.issues = tuple(issues)
        lines = [str(issue) for issue in self.issues]
        super().__init__(lines[0] if len(lines) == 1 else _listed(source, lines), hint=hint)


def dotted(path: Iterable[str]) -> str:
    """Return a key path as users write it: `reconstruct.pool.size`."""
    return ".".join(path)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that a misspelt word most likely means, or None where none is near."""
    known = list(choices)
    matches = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if matches:
        return matches[0]
    parts = [choice for choice in known if word and (word.lower() in choice or choice in word.lower())]
    return parts[0] if len(parts) == 1 else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return what follows "unknown …": the nearest choice, or all of them where none is near."""
    known = list(choices)
    match = nearest(word, known)
    if match is not None:
        return f"did you mean {match}?"
    return f"valid here: {', '.join(known)}" if known else "nothing is valid here"


def _listed(source: str, lines: Sequence[str]) -> str:
    return "\n".join((f"{source} has {len(lines)} errors", *(f"  {line}" for line in lines)))
