"""How far a run is: one live line on a terminal, a plain line now and then elsewhere; all on stderr."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

from croc_cli.names import EARLIER_WAIT_SHARE
from croc_cli.progress import PLAIN_SECONDS, SHORT_SECONDS, Measure, amount, bar, clock, draw, is_live
from croc_cli.redact import redact
from croc_cli.words import shown, wrapped

STEP, LOSS, TIME, SPEED, DETAIL = range(5)
"""Kinds of figures of a step; the higher, the sooner it is left out where a line has no room."""


class Progress(Protocol):
    """Shows how far a stage is."""

    def __enter__(self) -> "Progress": ...

    def __exit__(self, *_: object) -> None: ...

    def works(self, works: Sequence[Mapping[str, Any]]) -> None:
        """Take the latest pieces of long work of rank 0, as `Position.working` notes them."""

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Take a step's figures."""

    def message(self, text: str) -> None:
        """Print a line that stays."""

    def tick(self) -> None:
        """Called several times a second."""


def open_progress(stage: str, stream: TextIO | None = None) -> Progress:
    """Return a live line where the stream (stderr, if left out) is a terminal, else plain lines."""
    stream = sys.stderr if stream is None else stream
    return LiveLine(stage, stream) if is_live(stream) else PlainLines(stage, stream)


class Works:
    """Follows the pieces of long work of a launch, from the snapshots that rank 0 writes."""

    def __init__(self) -> None:
        self.current: Mapping[str, Any] | None = None
        self.measure = Measure(None, "")
        self._ended = 0

    def update(self, works: Sequence[Mapping[str, Any]]) -> list[str]:
        """Take a snapshot, and return a line for each piece that has ended and took more than a moment."""
        lines = []
        for work in works:
            seconds = work.get("seconds")
            if seconds is None or work["number"] <= self._ended:
                continue
            self._ended = work["number"]
            if work.get("ended") and seconds >= SHORT_SECONDS:
                size = f" ({amount(work['done'], work['unit'])})" if work["done"] else ""
                lines.append(f"{work['did']}{size} in {clock(seconds)}")
        running = next((work for work in reversed(works) if work.get("seconds") is None), None)
        if running is None or self.current is None or running["number"] != self.current["number"]:
            self.measure = Measure(None, running["unit"] if running else "")
        self.current = running
        if running is not None and (running["done"] or running["total"]):
            self.measure.update(running["done"], running["total"])
        return lines

    def describe(self) -> str:
        """Return how far the running piece is, or for how long it has run."""
        if self.measure.done or self.measure.total:
            return self.measure.describe()
        return clock(self.measure.seconds)


class PlainLines:
    """Log lines: the first step, the last one, and one every ten seconds between.

    Args:
        stage: Name of the stage.
        stream: Where the lines go.
        seconds: Between two lines.
    """

    def __init__(self, stage: str, stream: TextIO, *, seconds: float = PLAIN_SECONDS) -> None:
        self.stage = stage
        self.stream = stream
        self.seconds = seconds
        self._last_time = -float("inf")
        self._held_back: Mapping[str, Any] | None = None
        self._works = Works()
        self._next_work_line = SHORT_SECONDS

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *_: object) -> None:
        if self._held_back is not None:
            self._print(self._held_back)

    def works(self, works: Sequence[Mapping[str, Any]]) -> None:
        """Print a line when a piece of work takes long, one now and then, and one when it is done."""
        before = self._works.current
        for line in self._works.update(works):
            self.message(f"{self.stage}: {line}")
        current = self._works.current
        if current is None or before is None or current["number"] != before["number"]:
            self._next_work_line = SHORT_SECONDS
        if current is not None and self._works.measure.seconds >= self._next_work_line:
            self._next_work_line = self._works.measure.seconds + self.seconds
            self.message(f"{self.stage}: {current['doing']}, {self._works.describe()}")

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Print the row, or hold it back until it is time."""
        last = row.get("step") is not None and row.get("step") == row.get("total_steps")
        self._held_back = row
        if last or time.monotonic() - self._last_time >= self.seconds:
            self._print(row)

    def message(self, text: str) -> None:
        """Print a line."""
        print(shown(redact(text)), file=self.stream, flush=True)

    def tick(self) -> None:
        """Do nothing: lines come with the figures."""

    def _print(self, row: Mapping[str, Any]) -> None:
        self.message(f"{self.stage} {format_metrics(row)}")
        self._held_back, self._last_time = None, time.monotonic()


class LiveLine:
    """One line that is drawn over itself, with rich.

    Args:
        stage: Name of the stage.
        stream: A terminal.
    """

    def __init__(self, stage: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self.stage = stage
        self.console = Console(file=stream, highlight=False)
        self.started = time.monotonic()
        self.row: Mapping[str, Any] | None = None
        self._works = Works()
        self.live = Live(console=self.console, refresh_per_second=8, get_renderable=self._draw)

    def __enter__(self) -> "LiveLine":
        self.live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.__exit__(None, None, None)

    def works(self, works: Sequence[Mapping[str, Any]]) -> None:
        """Take the latest work; a line that stays is printed for each piece that is done."""
        for line in self._works.update(works):
            self.message(f"{self.stage}: {line}")

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Take a step's figures; the line is drawn at its own pace, with the last held-out loss and scores."""
        before = self.row or {}
        self.row = {key: before[key] for key in ("held_out", "benchmark") if key in before} | dict(row)

    def message(self, text: str) -> None:
        """Print a line above the live one."""
        self.console.print(wrapped(shown(redact(text)), width=self.console.width), markup=False, soft_wrap=True)

    def tick(self) -> None:
        """Do nothing: rich draws in a thread of its own."""

    def _draw(self) -> Any:
        from rich.text import Text

        works = self._works
        if works.current is not None:
            shown = bar(works.measure.done, works.measure.total, seconds=works.measure.seconds)
            return draw(self.stage, shown, f"{works.current['doing']}, {works.describe()}")
        if self.row is None:
            seconds = time.monotonic() - self.started
            return draw(self.stage, bar(0, None, seconds=seconds), f"starting, {format_seconds(seconds)}")
        line = Text(live_line(self.stage, self.row, width=self.console.width), no_wrap=True, overflow="ellipsis")
        line.highlight_regex("[━─]+", "cyan")
        line.highlight_regex(f"^{self.stage} ", "bold")
        return line


def live_line(stage: str, row: Mapping[str, Any], *, width: int) -> str:
    """Return a step's line that is no wider than a terminal; where room is short, what matters least goes first.

    Step, losses and time left stay longest.

    Args:
        stage: Name of the stage.
        row: A line of metrics.jsonl.
        width: Columns of the terminal.
    """
    figures = step_figures(row)
    drawn = f"{bar(row.get('step') or 0, row.get('total_steps') or 0)} "
    for most in (DETAIL, SPEED):
        text = f"{stage} {drawn}" + _joined(figures, most=most)
        if len(text) <= width:
            return text
    shorter = [
        f"{stage} {drawn}" + _joined(figures, most=TIME),
        f"{stage} " + _joined(figures, most=TIME),
        f"{stage} " + _joined(figures, most=TIME).replace(" loss ", " "),
        _joined(figures, most=TIME).replace(" loss ", " "),
        _joined([one for one in figures if not one[1].startswith("reconstruction")], most=TIME).replace(" loss ", " "),
    ]
    return next((text for text in shorter if len(text) <= width), _joined(figures, most=STEP))


def format_metrics(row: Mapping[str, Any]) -> str:
    """Return one step's figures in a line; what a row does not have is left out.

    Args:
        row: A line of metrics.jsonl.
    """
    return _joined(step_figures(row), most=DETAIL)


def step_figures(row: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return one step's figures as (how soon it may be left out, text), in the order in which they are shown."""
    figures = [(STEP, f"step {row.get('step', '?')}/{row.get('total_steps', '?')}")]
    caption, reconstruction = row.get("caption_loss"), row.get("reconstruction_loss")
    if caption is None and reconstruction is None and row.get("loss") is not None:
        figures.append((LOSS, f"loss {row['loss']:.3f}"))
    if caption is not None:
        figures.append((LOSS, f"caption loss {caption:.3f}"))
    if reconstruction is not None:
        figures.append((LOSS, f"reconstruction loss {reconstruction:.3f}"))
    rates = {group: rate for group, rate in (row.get("learning_rate") or {}).items() if rate is not None}
    if rates:
        figures.append((DETAIL, "rate " + "/".join(f"{rate:.1e}" for rate in dict.fromkeys(rates.values()))))
    if row.get("tokens_per_second") is not None:
        figures.append((SPEED, f"{row['tokens_per_second']:,.0f} tokens/s"))
    if row.get("seconds_left") is not None:
        figures.append((TIME, f"{format_seconds(row['seconds_left'])} left"))
    waited = row.get("assignment_wait_share", row.get(EARLIER_WAIT_SHARE))
    if waited is not None:
        figures.append((DETAIL, f"assignment wait {waited:.0%}"))
    if row.get("pool_window_share") is not None:
        figures.append((DETAIL, f"pool {row['pool_window_share']:.0%}"))
    held_out = row.get("held_out") or {}
    if held_out.get("caption_loss") is not None:
        figures.append((SPEED, f"held-out {held_out['caption_loss']:.3f}"))
    for name, answered in (row.get("benchmark") or {}).items():
        if isinstance(answered, Mapping) and answered.get("score") is not None:
            figures.append((SPEED, f"{name} {answered['score']:.1f}"))
    if row.get("skipped"):
        figures.append((LOSS, "skipped"))
    return figures


def _joined(figures: Sequence[tuple[int, str]], *, most: int) -> str:
    return " · ".join(text for order, text in figures if order <= most)


def format_seconds(seconds: float) -> str:
    """Return a duration: `42 s`, `3:07`, `1:02:03`, `2 d 03:00:00`; `?` for one that is not finite."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    days, rest = divmod(whole, 86_400)
    hours, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    if days:
        return f"{days} d {hours:02d}:{minutes:02d}:{left:02d}"
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
