"""Reads metrics.jsonl line by line into curves of bounded length, whatever the number of steps.

A run of 100,000 steps has 100 MB of metrics; a figure shows a few hundred points of them. Rows are averaged in bins of
steps that double in width when there are too many, so that memory does not grow with the run.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from croc_cli.names import EARLIER_WAIT_SHARE
from croc_cli.report.spikes import NormSpikes, Spike
from croc_cli.run_dir import parse_object

MAX_BINS = 600
"""Points of a curve at most; a card on the page is a few hundred pixels wide."""
WINDOW = 50
"""Steps at the end of a stage over which its headline losses are averaged: a single step's depend on its samples."""
_LAST_BYTES = 1 << 18
_SPARSE_BYTES = 1 << 22
"""Of the end of a file that is searched for what only some rows have: 4,000 rows or so."""
_NESTED = frozenset({"learning_rate", "gradient_norms", "held_out", "benchmark", "source"})
"""Keys of the last rows that hold further keys."""
_NOT_CURVES = frozenset({"step", "total_steps", "skipped", "seconds_left"})


@dataclass(frozen=True)
class Curve:
    """One figure over the steps.

    Args:
        steps: Middle of each bin, in optimizer steps.
        means: Mean of the bin's finite values.
        lows, highs: Smallest and largest of them.
    """

    steps: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


@dataclass
class Metrics:
    """What a metrics.jsonl holds.

    Args:
        curves: By key; those of nested values as `learning_rate/llm`.
        last: The last whole row.
        num_rows: Rows that were read.
        num_torn: Lines that are no JSON object: cut off in the middle, or not ours.
        num_not_finite: Values that are NaN or infinite, or null where the key has had a number before.
        num_repeated: Rows of a step that an earlier row had reached already.
        num_skipped: Steps that the optimizer skipped.
        max_step: Highest step.
        recent: The last `WINDOW` rows.
        spikes: Steps whose gradient norm stands out most, the highest first.
    """

    curves: dict[str, Curve] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    num_rows: int = 0
    num_torn: int = 0
    num_not_finite: int = 0
    num_repeated: int = 0
    num_skipped: int = 0
    max_step: int = 0
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    spikes: list[Spike] = field(default_factory=list)

    def recent_mean(self, key: str) -> float | None:
        """Return the mean of a key over the last rows; None where none of them has a number."""
        return mean_of(self.recent, key)

    def notes(self) -> list[str]:
        """Return what a reader of the curves should know, one line each."""
        found = (
            (self.num_torn, "line that is cut off or no JSON, left out", "lines that are cut off or no JSON, left out"),
            (self.num_not_finite, "value that is not a finite number", "values that are not finite numbers"),
            (self.num_repeated, "step written twice, averaged", "steps written twice, averaged"),
            (self.num_skipped, "step that the optimizer skipped", "steps that the optimizer skipped"),
        )
        return [f"metrics.jsonl has {count:,} {one if count == 1 else many}" for count, one, many in found if count]


class _Bins:
    """Sums of one key, by bin: [count, sum, low, high]."""

    def __init__(self) -> None:
        self.cells: dict[int, list[float]] = {}

    def add(self, index: int, value: float) -> None:
        """Count a value."""
        cell = self.cells.get(index)
        if cell is None:
            self.cells[index] = [1, value, value, value]
            return
        cell[0] += 1
        cell[1] += value
        if value < cell[2]:
            cell[2] = value
        elif value > cell[3]:
            cell[3] = value

    def halve(self) -> None:
        """Merge neighbouring bins."""
        old, self.cells = self.cells, {}
        for index, (count, total, low, high) in old.items():
            cell = self.cells.setdefault(index // 2, [0, 0.0, low, high])
            cell[0] += count
            cell[1] += total
            cell[2], cell[3] = min(cell[2], low), max(cell[3], high)

    def curve(self, width: int) -> Curve:
        """Return the bins in order, for bins `width` steps wide; bin 0 starts at step 1."""
        order = sorted(self.cells)
        cells = [self.cells[index] for index in order]
        return Curve(
            steps=[index * width + (width + 1) / 2 for index in order],
            means=[total / count for count, total, _, _ in cells],
            lows=[cell[2] for cell in cells],
            highs=[cell[3] for cell in cells],
        )


def read_metrics(path: Path, *, max_bins: int = MAX_BINS) -> Metrics:
    """Read a metrics.jsonl; a missing file has no rows, and lines that cannot be read are counted and left out.

    Args:
        path: The file.
        max_bins: Points of a curve at most.
    """
    metrics = Metrics()
    bins: dict[str, _Bins] = {}
    spikes = NormSpikes()
    width = 1
    try:
        stream = path.open("rb")
    except OSError:
        return metrics
    with stream:
        for line in stream:
            row = _row(line)
            if row is None:
                metrics.num_torn += bool(line.strip())
                continue
            step = row["step"]
            metrics.num_rows += 1
            metrics.num_repeated += step <= metrics.max_step
            metrics.max_step = max(metrics.max_step, step)
            metrics.num_skipped += bool(row.get("skipped"))
            metrics.last = row
            metrics.recent.append(row)
            while (step - 1) // width >= max_bins:
                width *= 2
                for one in bins.values():
                    one.halve()
            metrics.num_not_finite += _count(row, "", (step - 1) // width, bins)
            if (norm := mean_of([row], "gradient_norm")) is not None:
                spikes.add(step, norm)
    metrics.spikes = spikes.highest
    metrics.curves = {key: one.curve(width) for key, one in bins.items() if one.cells}
    return metrics


def last_rows(path: Path, count: int = WINDOW) -> list[dict[str, Any]]:
    """Return the last rows of a metrics.jsonl, reading its end alone; a missing file has none.

    Values that are not what croc writes, as in a damaged file, are left out of a row.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            length = _LAST_BYTES
            while True:
                start = max(0, size - length)
                stream.seek(start)
                lines = stream.read(size - start).split(b"\n")
                rows = [row for line in (lines[1:] if start else lines) if (row := _row(line)) is not None]
                if len(rows) >= count or not start:
                    return [_figures(row) for row in rows[-count:]]
                length *= 4
    except OSError:
        return []


def last_rows_with(path: Path, key: str) -> list[dict[str, Any]]:
    """Return those of the last few thousand rows of a metrics.jsonl that have a key, without parsing the others."""
    try:
        with path.open("rb") as stream:
            start = max(0, stream.seek(0, 2) - _SPARSE_BYTES)
            stream.seek(start)
            lines = stream.read(_SPARSE_BYTES).split(b"\n")
    except OSError:
        return []
    wanted = f'"{key}"'.encode()
    rows = [_row(line) for line in (lines[1:] if start else lines) if wanted in line]
    return [_figures(row) for row in rows if row is not None and row.get(key) is not None]


def _figures(row: Mapping[str, Any], *, inside: bool = False) -> dict[str, Any]:
    """Return what of a row is a finite number, by key; beside it `skipped`, and what is nested `inside` known keys."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, bool):
            if key == "skipped":
                found[key] = value
        elif isinstance(value, dict) and (inside or key in _NESTED):
            found[key] = _figures(value, inside=True)
        elif isinstance(value, float | int) and math.isfinite(value) and (inside or key not in _NESTED):
            found[key] = value
    if not isinstance(found.get("total_steps", 1), int):
        del found["total_steps"]
    return found


def mean_of(rows: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """Return the mean of a key's finite numbers; None where no row has one."""
    values = [row.get(key) for row in rows]
    numbers = [value for value in values if isinstance(value, float | int) and math.isfinite(value)]
    return sum(numbers) / len(numbers) if numbers else None


def _row(line: bytes) -> dict[str, Any] | None:
    """Return a line's object where it is one with a step."""
    try:
        row = parse_object(line)
    except ValueError:
        return None
    if EARLIER_WAIT_SHARE in row:
        row["assignment_wait_share"] = row.pop(EARLIER_WAIT_SHARE)
    step = row.get("step")
    return row if isinstance(step, int) and not isinstance(step, bool) and step > 0 else None


def _count(row: Mapping[str, Any], prefix: str, index: int, bins: dict[str, _Bins]) -> int:
    """Put a row's numbers into their bins, and return how many were not finite."""
    odd = 0
    for name, value in row.items():
        if not prefix and name in _NOT_CURVES:
            continue
        key = prefix + name
        if isinstance(value, float | int) and not isinstance(value, bool):
            if math.isfinite(value):
                one = bins.get(key)
                if one is None:
                    one = bins[key] = _Bins()
                one.add(index, value)
            else:
                odd += 1
        elif isinstance(value, dict):
            odd += _count(value, f"{key}/", index, bins)
        elif value is None and key in _ALWAYS_NUMBERS and key in bins:
            odd += 1
    return odd


_ALWAYS_NUMBERS = frozenset({"loss", "caption_loss", "reconstruction_loss", "gradient_norm"})
"""Keys whose null stands for a number that was not finite, once they have had one; elsewhere: not measured."""
