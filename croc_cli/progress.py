"""How far long work is: the same bar on a terminal, drawn by rich, and the same plain lines elsewhere; all on stderr.

Library code is given a `Progress` and reports to its tasks; commands open the one that fits stderr.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TextIO

from croc_cli.redact import redact
from croc_cli.words import shown

if TYPE_CHECKING:
    from rich.text import Text

Unit = str
"""What is counted: bytes, which are shown as GB or MB, or anything else by its plural, such as "rows"."""

PLAIN_SECONDS = 10.0
"""Seconds between two lines of one task where there is no terminal."""
SHORT_SECONDS = 2.0
"""Work that takes less is not mentioned where there is no terminal."""
BAR_WIDTH = 12
_WATCH_SECONDS = 0.5
_SWEEP_SECONDS = 1.5
"""How long the mark of a bar without a total takes from one end to the other."""


class Task:
    """One piece of work; this one shows nothing."""

    def update(self, done: int, total: int | None = None) -> None:
        """Tell how much is done, in the task's unit, and of how much once that is known."""

    def note(self, text: str) -> None:
        """Tell what a user should know while it runs, such as why it waits."""

    def close(self, summary: str = "") -> None:
        """End the task; `summary` is its result."""


class Progress:
    """Makes tasks; this one shows nothing. A context: what it shows is taken away at its end."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def task(self, label: str, total: int | None, unit: Unit) -> Task:
        """Begin a task.

        Args:
            label: What is being done, such as "images.zip".
            total: How much there is to do, where it is known.
            unit: What is counted.
        """
        del label, total, unit
        return Task()


def is_live(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal on which lines can be drawn over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def open_progress(stream: TextIO | None = None) -> Progress:
    """Return the progress that fits a stream (stderr, if left out): bars on a terminal, lines elsewhere."""
    stream = sys.stderr if stream is None else stream
    return _Bars(stream) if is_live(stream) else _Lines(stream)


@contextmanager
def work_line(unit: Unit, stream: TextIO | None = None) -> Iterator[Callable[..., None]]:
    """Yield a function to be called with (label, done, total or None): a task for each label, one after another."""
    with open_progress(stream) as progress:
        current: list[tuple[str, Task]] = []

        def count(label: str, done: int, total: int | None = None) -> None:
            if not current or current[-1][0] != label:
                if current:
                    current.pop()[1].close()
                current.append((label, progress.task(label, total, unit)))
            current[-1][1].update(done, total)

        yield count
        if current:
            current[-1][1].close()


@contextmanager
def watched(label: str, total: int | None, measure: Callable[[], int], *, unit: Unit = "bytes") -> Iterator[None]:
    """Show how far something comes that tells nothing itself, such as a library's download.

    Args:
        label: What is being done.
        total: How much there is to do, where it is known.
        measure: Tells how much is done.
        unit: What is counted.
    """
    done = Event()

    def look(task: Task) -> None:
        with suppress(OSError):  # a file that was renamed in the same moment
            task.update(measure(), total)

    def follow(task: Task) -> None:
        while not done.wait(_WATCH_SECONDS):
            look(task)

    with open_progress() as progress:
        task = progress.task(label, total, unit)
        thread = Thread(target=follow, args=(task,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            look(task)
            task.close()


class Measure:
    """How much of a task is done, and how fast: what bars and lines say of it.

    Args:
        total: How much there is to do, where it is known.
        unit: What is counted.
    """

    def __init__(self, total: int | None, unit: Unit) -> None:
        self.total, self.unit = total, unit
        self.done = 0
        self.started = time.monotonic()
        self._first: int | None = None

    def update(self, done: int, total: int | None = None) -> None:
        """Take how much is done; the first report is where the rate starts from, as resumed work begins there."""
        self._first = done if self._first is None else self._first
        self.done = done
        self.total = self.total if total is None else total

    @property
    def seconds(self) -> float:
        """Since the task began."""
        return time.monotonic() - self.started

    def describe(self) -> str:
        """Return such as `1,200 of 5,000 rows, 400/s, 0:10 left`."""
        total = None if self.total is None else amount(self.total, self.unit)
        parts = [
            amount(self.done, self.unit) if total is None else f"{amount(self.done, self.unit, of=True)} of {total}"
        ]
        rate = (self.done - (self._first or 0)) / max(self.seconds, 1e-9)
        if self.seconds > 1 and rate > 0:
            parts.append(f"{amount(round(rate), self.unit, of=self.unit != 'bytes')}/s")
            if self.total is not None:
                parts.append(f"{clock(max(self.total - self.done, 0) / rate)} left")
        return ", ".join(parts)


def amount(number: int, unit: Unit, *, of: bool = False) -> str:
    """Return a number with its unit; `of` leaves a counted unit away, as it follows later."""
    if unit == "bytes":
        return size_text(number)
    return f"{number:,}" if of or not unit else f"{number:,} {unit}"


def size_text(num_bytes: int) -> str:
    """Return bytes as a person reads them, in powers of ten: "27.4 GB"."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in ("B", "kB") else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def clock(seconds: float) -> str:
    """Return a duration such as `3:07` or `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def bar(done: int, total: int | None, *, width: int = BAR_WIDTH, seconds: float = 0.0) -> str:
    """Return a bar such as `━━━───`; without a total a mark wanders, by the seconds that have passed."""
    if total is None:
        place = int(seconds / _SWEEP_SECONDS * width) % width
        return "─" * place + "━" + "─" * (width - place - 1)
    filled = min(width, width * done // total) if total else 0
    return "━" * filled + "─" * (width - filled)


def draw(label: str, bar_text: str, text: str) -> "Text":
    """Return the line of a terminal that every kind of progress has; what does not fit is cut at its end."""
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{label} ", style="bold")
    line.append(bar_text, style="cyan")
    return line.append(f" {text}")


class _Lines(Progress):
    """Plain lines: one when a task has begun to take long, one now and then, and its result."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def task(self, label: str, total: int | None, unit: Unit) -> Task:
        return _LineTask(self.stream, label, Measure(total, unit))


class _LineTask(Task):
    def __init__(self, stream: TextIO, label: str, measure: Measure) -> None:
        self._stream, self._label, self._measure = stream, label, measure
        self._next = measure.started + SHORT_SECONDS
        self._has_said = False

    def update(self, done: int, total: int | None = None) -> None:
        self._measure.update(done, total)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_SECONDS
            self._say(self._measure.describe())

    def note(self, text: str) -> None:
        print(f"note: {shown(redact(text))}", file=self._stream, flush=True)

    def close(self, summary: str = "") -> None:
        if summary or self._has_said:
            self._say(summary or self._measure.describe())

    def _say(self, text: str) -> None:
        self._has_said = True
        print(f"{shown(self._label)}: {shown(redact(text))}", file=self._stream, flush=True)


class _Bars(Progress):
    """Bars that are drawn over themselves; a task with a result leaves a line."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(file=stream, highlight=False)
        self.tasks: list[_BarTask] = []
        self._live = Live(console=self.console, refresh_per_second=8, get_renderable=self._draw, transient=True)

    def __enter__(self) -> "_Bars":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def task(self, label: str, total: int | None, unit: Unit) -> Task:
        self.tasks.append(_BarTask(self, label, Measure(total, unit)))
        return self.tasks[-1]

    def _draw(self) -> Any:
        from rich.console import Group

        return Group(*(task.draw() for task in list(self.tasks)))


class _BarTask(Task):
    def __init__(self, bars: _Bars, label: str, measure: Measure) -> None:
        self._bars, self._label, self._measure = bars, label, measure
        self.update = measure.update  # type: ignore[method-assign]  # rich draws at its own pace

    def note(self, text: str) -> None:
        self._bars.console.print(f"note: {shown(redact(text))}", markup=False, soft_wrap=True)

    def close(self, summary: str = "") -> None:
        if self in self._bars.tasks:
            self._bars.tasks.remove(self)
            if summary:
                self._bars.console.print(
                    f"{shown(self._label)}: {shown(redact(summary))}", markup=False, soft_wrap=True
                )

    def draw(self) -> "Text":
        measure = self._measure
        return draw(self._label, bar(measure.done, measure.total, seconds=measure.seconds), measure.describe())
