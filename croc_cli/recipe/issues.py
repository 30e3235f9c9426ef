"""What is wrong with a recipe: every issue with its key, its file and line, raised together."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import isfinite

from croc_cli.errors import RecipeError
from croc_cli.words import counted

MAX_LISTED = 40
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
    return ".".join(part if len(part) <= 80 else f"{part[:80]}…" for part in path)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that a misspelt word most likely means, or None where none is near."""
    known = list(choices)
    if len(word) > 100:  # far from every key, and comparing takes time
        return None
    lowered = {choice.lower(): choice for choice in known}
    matches = get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    if matches:
        return lowered[matches[0]]
    parts = [choice for choice in known if word and (word.lower() in choice or choice in word.lower())]
    return parts[0] if len(parts) == 1 else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return what follows "unknown …": the nearest choice, or all of them where none is near."""
    known = list(choices)
    match = nearest(word, known)
    if match is not None:
        return f"did you mean {match}?"
    return f"valid here: {', '.join(known)}" if known else "nothing is valid here"


def number_meant(value: object, *, is_share: bool, is_whole: bool) -> str | None:
    """Return the number that a wrong value most likely stands for, as users write it; None where nothing is likely.

    Percents stand for shares (`75`, `75 %`), a comma for the point or for thousands (`0,75`, `2,048`), k and M for
    thousands and millions.

    Args:
        value: What was given where a number was expected.
        is_share: A number from 0 to 1 is expected.
        is_whole: A whole number is expected.
    """
    if len(str(value)) > 40:
        return None
    match = re.fullmatch(r"([-+]?[\d.,]+(?:e[-+]?\d+)?)\s*([%km]?)", str(value).strip().lower())
    if match is None:
        return None
    digits, unit = match.groups()
    is_grouped = not is_share and re.fullmatch(r"\d{1,3}(,\d{3})+", digits) is not None
    try:
        number = float(digits.replace(",", "" if is_grouped else ".")) * {"k": 1e3, "m": 1e6}.get(unit, 1.0)
    except ValueError:
        return None
    if not isfinite(number):
        return None
    if unit == "%" or (is_share and 1 < number <= 100):
        number /= 100
    is_changed = unit != "" or "," in digits or is_share
    fits = (number == round(number) or not is_whole) and (0 <= number <= 1 or not is_share)
    return f"{number:.12g}" if is_changed and fits else None


def _listed(source: str, lines: Sequence[str]) -> str:
    shown = [f"  {line}" for line in lines[:MAX_LISTED]]
    if len(lines) > MAX_LISTED:
        shown.append(f"  and {len(lines) - MAX_LISTED} more")
    return "\n".join((f"{source} has {counted(len(lines), 'error')}", *shown))
