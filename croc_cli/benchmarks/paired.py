"""Two runs on the same questions: their difference question by question, and which answers became right or wrong."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.benchmarks.registry import EVERY, benchmarks
from croc_cli.benchmarks.score import Headline
from croc_cli.run_dir import read_jsonl
from croc_cli.words import counted

if TYPE_CHECKING:
    import numpy as np

Item = Mapping[str, Any]
"""A line of items/NAME.jsonl."""
HEAD = ("questions", "difference", "95 % interval", "better", "worse", "McNemar p")
_NEAR = 0.05
"""Points by which a headline may differ from the mean of its answers' scores: what a table's digit does not show."""


@dataclass(frozen=True)
class Paired:
    """One benchmark of two runs, on the questions that both have scores of.

    Attributes:
        name: The benchmark.
        pairs: The items of the first and the second run, in the order of the first run's questions.
        counts: How many items each run has.
        is_mean: Whether both headlines are the mean of the answers' scores.
    """

    name: str
    pairs: Sequence[tuple[Item, Item]]
    counts: tuple[int, int]
    is_mean: bool = True

    @cached_property
    def differences(self) -> list[float]:
        """Score of the second answer less that of the first, for each question."""
        return [float(second["score"]) - float(first["score"]) for first, second in self.pairs]

    @cached_property
    def scale(self) -> float:
        """100 where scores are shares of a right answer, so that differences are in points; 1 for a judge's points."""
        return 100.0 if all(0 <= item["score"] <= 1 for pair in self.pairs for item in pair) else 1.0

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether every score is 0 or 1."""
        return all(item["score"] in (0, 1) for pair in self.pairs for item in pair)

    @property
    def better(self) -> list[tuple[Item, Item]]:
        """The questions that the second run answers better."""
        return [pair for pair, by in zip(self.pairs, self.differences, strict=True) if by > 0]

    @property
    def worse(self) -> list[tuple[Item, Item]]:
        """The questions that the second run answers worse."""
        return [pair for pair, by in zip(self.pairs, self.differences, strict=True) if by < 0]

    @cached_property
    def headline(self) -> Headline:
        """Mean difference; its interval draws units, so that questions which belong together stay together."""
        units: dict[Any, list[float]] = defaultdict(list)
        for place, ((first, _), by) in enumerate(zip(self.pairs, self.differences, strict=True)):
            units[first.get("unit", place)].append(by)
        if len(units) == len(self.pairs):
            return Headline.mean(self.differences, scale=self.scale)
        sums, sizes = [sum(unit) for unit in units.values()], [len(unit) for unit in units.values()]
        value = self.scale * sum(sums) / sum(sizes)
        return Headline(value, len(units), partial(_mean_of_units, sums=sums, sizes=sizes, scale=self.scale))

    def mcnemar(self) -> float | None:
        """Return the two-sided p of McNemar's exact test: flips are as likely either way (McNemar, 1947).

        None where an answer is more than right or wrong.
        """
        if not self.is_right_or_wrong:
            return None
        better, worse = len(self.better), len(self.worse)
        if not better + worse:
            return 1.0
        from scipy.stats import binomtest

        return float(binomtest(better, better + worse, 0.5).pvalue)

    def cells(self) -> list[str]:
        """Return the cells under HEAD."""
        interval, p = self.headline.interval(), self.mcnemar()
        shown = f"[{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else "–"
        counts = [f"{len(flips):,}" for flips in (self.better, self.worse)]
        difference = f"{self.headline.value:+.1f}"
        return [f"{len(self.pairs):,}", difference, shown, *counts, "–" if p is None else f"{p:.2g}"]

    def notes(self) -> list[str]:
        """Return what a reader must know beside the figures."""
        found = []
        if self.counts != (len(self.pairs),) * 2:
            first, second = (counted(count, "question") for count in self.counts)
            both = f"the tests use the {len(self.pairs):,} that both have" if self.pairs else "none is in both"
            found.append(f"the runs have scores of {first} and {second}; {both}")
        if self.pairs and not self.is_right_or_wrong:
            found.append("no McNemar's test, which needs answers that are right or wrong: these have scores in between")
        if self.is_right_or_wrong and any("unit" in first for first, _ in self.pairs):
            found.append("McNemar's test takes questions as independent, and some belong together")
        if self.pairs and not self.is_mean:
            unit = "right answers" if self.is_right_or_wrong else "an answer's mean score"
            found.append(f"the difference is in {unit}, not in {benchmarks()[self.name].metric}")
        return [f"{self.name}: {note}" for note in found]


def _mean_of_units(weights: np.ndarray, *, sums: Sequence[float], sizes: Sequence[int], scale: float) -> float:
    return scale * float(weights @ sums) / float(weights @ sizes)


def pair_runs(
    runs: Mapping[str, Mapping[str, Mapping[str, Any]]], folders: Sequence[Path]
) -> tuple[dict[str, Paired], list[str]]:
    """Return the benchmarks that two runs have on common questions, and notes.

    Questions are the same where id, prompt and expected answer are.

    Args:
        runs: The entries of both runs in results.json, by label.
        folders: Their folders, in the same order.
    """
    pairs, notes = {}, []
    for name in EVERY:
        entries = [scores[name] for scores in runs.values() if name in scores]
        if len(entries) != len(folders) or any(entry.get("value") is None for entry in entries):
            continue
        items = [_items(folder, name) for folder in folders]
        for folder, found in zip(folders, items, strict=True):
            if not found:
                notes.append(f"{name}: {folder} keeps no single answers; `croc eval score {folder}` writes them")
        if not all(items):
            continue
        paired = _pair(name, items[0], items[1], [entry["value"] for entry in entries])
        notes += paired.notes()
        if paired.pairs:
            pairs[name] = paired
    return pairs, notes


def paired_rows(pairs: Mapping[str, Paired]) -> list[list[str]]:
    """Return the table of paired tests: one row for each benchmark."""
    rows = [["benchmark", *HEAD]]
    return rows + [[benchmarks()[name].title, *paired.cells()] for name, paired in pairs.items()]


def flip_rows(pairs: Mapping[str, Paired], labels: Sequence[str], limit: int) -> list[list[str]]:
    """Return a table of the questions whose score differs: of each benchmark up to `limit` worse, then better ones."""
    rows = [["benchmark", "change", "question id", "picture", "question", "expected", *labels]]
    for name, paired in pairs.items():
        for pair in (*paired.worse[:limit], *paired.better[:limit]):
            rows.append([name, change(pair), *flip_words(pair).values()])
    return rows


def flip_words(pair: tuple[Item, Item]) -> dict[str, str]:
    """Return what a flip shows: the question's id, picture, text and expected answer, then both answers."""
    first, second = pair
    keys = {"question id": "question_id", "picture": "picture", "question": "prompt", "expected": "expected"}
    found = {label: _shown(first.get(key)) for label, key in keys.items()}
    if "pictures" in first:
        found["picture"] = _shown(first["pictures"])
    return found | {"first": _shown(first.get("text")), "second": _shown(second.get("text"))}


def change(pair: tuple[Item, Item]) -> str:
    """Return what became of a score, such as `right → wrong` or `0.3 → 1`."""
    words = {0.0: "wrong", 1.0: "right"}
    scores = [float(item["score"]) for item in pair]
    plain = all(score in words for score in scores)
    return " → ".join(words[score] if plain else f"{score:.3g}" for score in scores)


def format_flips(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows of `flip_rows` as a block of lines for each question."""
    head, *body = rows
    width = max(map(len, head))
    blocks = ["\n".join(f"{label:<{width}}  {cell}" for label, cell in zip(head, row, strict=True)) for row in body]
    return "\n\n".join(blocks) or "no answer differs in its score"


def question_of(item: Item) -> str:
    """Return what tells a question from all others, in any run."""
    words = [item.get("question_id"), item.get("prompt"), item.get("expected")]
    return json.dumps([str(words[0]), *words[1:]], sort_keys=True)


def _pair(name: str, first: Sequence[Item], second: Sequence[Item], values: Sequence[float]) -> Paired:
    waiting: dict[str, list[Item]] = defaultdict(list)
    for item in reversed(second):
        waiting[question_of(item)].append(item)
    pairs = [(item, same.pop()) for item in first if (same := waiting.get(question_of(item)))]
    means = [100 * sum(item["score"] for item in items) / len(items) for items in (first, second)]
    is_mean = all(abs(mean - value) < _NEAR for mean, value in zip(means, values, strict=True))
    return Paired(name, pairs, (len(first), len(second)), is_mean)


def _items(folder: Path, name: str) -> list[Item]:
    """Return a benchmark's items; those that are damaged are left out."""
    files = (folder / "benchmarks" / "items" / f"{name}.jsonl", folder / "items" / f"{name}.jsonl")
    file = next((file for file in files if file.is_file()), files[0])
    return [item for item in read_jsonl(file) if _is_number(item.get("score"))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " / ".join(dict.fromkeys(map(_shown, value)))
    return "–" if value is None else " ".join(str(value).split()) or "(empty)"
