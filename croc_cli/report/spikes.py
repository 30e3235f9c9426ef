"""Finds steps whose gradient norm stands out from the steps before them, and the samples of such a step."""

import math
import os
import statistics
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croc_cli.files import open_file
from croc_cli.run_dir import StageDir, parse_object

BEFORE = 50
"""Steps before a step whose median norm it is compared with."""
_LEAST_BEFORE = 20
_KEPT = 10


@dataclass(frozen=True)
class Spike:
    """A step and its gradient norm.

    Args:
        step: The optimizer step.
        norm: Its gradient norm.
        median: Of the steps before it.
    """

    step: int
    norm: float
    median: float

    @property
    def ratio(self) -> float:
        """How many times the median the norm is."""
        return self.norm / self.median if self.median > 0 else 0.0


class NormSpikes:
    """Takes the norms of a stage in order, and keeps the steps that stand out most; its memory does not grow."""

    def __init__(self) -> None:
        self._before: deque[float] = deque(maxlen=BEFORE)
        self.highest: list[Spike] = []

    def add(self, step: int, norm: float) -> None:
        """Count a step with a finite norm."""
        if len(self._before) >= _LEAST_BEFORE:
            spike = Spike(step, norm, statistics.median(self._before))
            if len(self.highest) < _KEPT or spike.ratio > self.highest[-1].ratio:
                self.highest = sorted([*self.highest, spike], key=lambda one: -one.ratio)[:_KEPT]
        self._before.append(norm)


def worst_of_step(stage_dir: StageDir, step: int, *, count: int) -> list[str]:
    """Return the samples of a step with the highest loss, the worst first; empty where none were written.

    Args:
        stage_dir: The stage.
        step: The step.
        count: How many at most.
    """
    found = []
    for file in stage_dir.samples_files():
        record = _record_of_step(file, step)
        ids, losses = record.get("ids"), record.get("losses")
        if isinstance(ids, list) and isinstance(losses, list):
            pairs = zip(losses, ids, strict=False)
            found += [(loss, str(one)) for loss, one in pairs if isinstance(loss, float | int) and math.isfinite(loss)]
    return [one for _, one in sorted(found, reverse=True)[:count]]


def _record_of_step(file: Path, step: int) -> dict[str, Any]:
    """Return a step's line by halving the file, whose steps go up: it has gigabytes in a long run."""
    try:
        with open_file(file) as stream:
            low, high = 0, stream.seek(0, os.SEEK_END)  # the line begins in [low, high)
            while low < high:
                middle = (low + high) // 2
                stream.seek(middle)
                if middle:
                    stream.seek(middle - 1)
                    stream.readline()
                begin, line = stream.tell(), stream.readline()
                record = _parse(line)
                here = record.get("step")
                if begin >= high or not isinstance(here, int) or here > step:
                    high = middle
                elif here == step:
                    return record
                else:
                    low = begin + len(line)
    except OSError:
        pass
    return {}


def _parse(line: bytes) -> dict[str, Any]:
    try:
        return parse_object(line)
    except ValueError:
        return {}
