"""Figures of every step, and the health of the token pool over the steps."""

import json
import math
import os
import resource
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from croc_cli.errors import UsageError, first_line
from croc_cli.redact import redact
from croc_cli.run_dir import write_whole

HEALTH_WINDOW = 50
"""Steps over which pool use, explained share and rates are reported as "the last window"."""


class PoolUsage:
    """Which pool tokens were used: since the start, and in the last window of steps.

    Args:
        num_tokens: N, tokens in the pool.
        window: Steps of the window.
    """

    def __init__(self, num_tokens: int, *, window: int = HEALTH_WINDOW) -> None:
        self.total = torch.zeros(num_tokens, dtype=torch.int64)
        self.recent: deque[Tensor] = deque(maxlen=window)

    def add(self, counts: Tensor) -> None:
        """Count one step's uses; counts: [N] int64, summed over ranks."""
        self.total += counts
        self.recent.append(counts.clone())

    def shares(self) -> dict[str, float]:
        """Return the used share since the start and in the window, and the window's entropy (1 = even use)."""
        window = torch.stack(list(self.recent)).sum(0) if self.recent else torch.zeros_like(self.total)
        probability = window.double() / window.sum().clamp(min=1)
        positive = probability[probability > 0]
        entropy = float(-(positive * positive.log()).sum())
        return {
            "pool_used_share": float((self.total > 0).double().mean()),
            "pool_window_share": float((window > 0).double().mean()),
            "pool_entropy": entropy / math.log(len(window)) if len(window) > 1 else 1.0,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on counting."""
        return {"total": self.total.tolist(), "recent": [counts.tolist() for counts in self.recent]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.total = torch.tensor(state["total"], dtype=torch.int64)
        self.recent.clear()
        self.recent.extend(torch.tensor(counts, dtype=torch.int64) for counts in state["recent"])


class ExplainedShare:
    """1 − loss / loss of predicting the mean visual token, over the last window of steps (METHOD: health)."""

    def __init__(self, *, window: int = HEALTH_WINDOW) -> None:
        self.sums: deque[tuple[float, float]] = deque(maxlen=window)

    def add(self, loss_sum: float, baseline_sum: float) -> None:
        """Count one step's sums over images."""
        self.sums.append((loss_sum, baseline_sum))

    def value(self) -> float | None:
        """Return the share, or None before any image was reconstructed."""
        baseline = sum(pair[1] for pair in self.sums)
        return 1 - sum(pair[0] for pair in self.sums) / baseline if baseline > 0 else None

    def state_dict(self) -> list[tuple[float, float]]:
        """Return what a resumed run needs to go on."""
        return list(self.sums)

    def load_state_dict(self, state: list[tuple[float, float]]) -> None:
        """Go on from what `state_dict` returned."""
        self.sums.clear()
        self.sums.extend((float(loss), float(baseline)) for loss, baseline in state)


class JsonLines:
    """A file that grows by one JSON object at a time, each written whole and flushed.

    Lines that cannot be written, as the disk is full or its file system is away, are held back and written with a later
    one; training does not stop for them.

    Args:
        path: The file; made with its folder where it does not exist.
        enabled: False on ranks that do not write.
        echo: Told of every object as well, for runs that nobody watches from outside.
    """

    def __init__(
        self, path: Path, *, enabled: bool = True, echo: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.path = path
        self.enabled = enabled
        self.echo = echo
        self.held_back: list[str] = []
        if enabled:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, **fields: Any) -> None:
        """Append one object; figures that are not finite are written as null, which JSON can hold."""
        if not self.enabled:
            return
        line = json.dumps({key: _finite(value) for key, value in fields.items()}, ensure_ascii=False)
        self.held_back.append(redact(line))
        if self._append("".join(f"{line}\n" for line in self.held_back).encode()):
            self.held_back.clear()
        if self.echo is not None:
            self.echo(fields)

    def _append(self, lines: bytes) -> bool:
        """Append whole lines, and tell whether all of them are in the file; what was half written is taken out again.

        The folder is not made anew: where a mount has gone, that would write into the empty place that it left.
        """
        try:
            with self.path.open("ab") as file:
                end = file.tell()
                try:
                    file.write(lines if self._ends_a_line(end) else b"\n" + lines)
                    file.flush()
                except OSError:
                    os.ftruncate(file.fileno(), end)
                    raise
        except OSError:
            return False
        return True

    def _ends_a_line(self, size: int) -> bool:
        """Tell whether the file's last byte ends a line; a crash may have cut one."""
        if size == 0:
            return True
        with self.path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) == b"\n"

    def amend(self, step: int, **fields: Any) -> None:
        """Add fields to the last line, where it is that of `step`; the file is replaced at once."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.enabled and self.path.exists() else []
        row = json.loads(lines[-1]) if lines else {}
        if row.get("step") == step:
            last = json.dumps(_finite(row | fields), ensure_ascii=False)
            write_whole(self.path, "".join(f"{line}\n" for line in [*lines[:-1], last]))

    def drop_after(self, step: int) -> None:
        """Take out lines of steps beyond `step`: a resumed run writes them again.

        The whole file is written anew beside the old one and put in its place at once.

        Raises:
            UsageError: A line is damaged, and it is not the last, which a crash may have cut.
        """
        if not self.enabled or not self.path.exists():
            return
        kept = []
        lines = self.path.read_bytes().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode()
                if json.loads(text).get("step", 0) <= step:
                    kept.append(text + "\n")
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                if number == len(lines):
                    break  # the line a crash cut in the middle
                raise UsageError(
                    f"{self.path}:{number} is damaged: {first_line(error)}",
                    hint="take the line out, and run the same command again",
                ) from error
        replacement = self.path.with_name(f".{self.path.name}.new")
        replacement.write_text("".join(kept), encoding="utf-8")
        replacement.replace(self.path)


def flat_figures(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield (key, number) of a row's numbers, those of mappings under `source/NAME/loss`."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            yield from flat_figures(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def peak_memory_bytes() -> int:
    """Return the most memory this process held: on its GPU where there is one, else in RAM."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
