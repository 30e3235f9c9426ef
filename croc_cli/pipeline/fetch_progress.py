"""How far a fetch is: rich bars with bytes, files, rate and time left on a terminal, a line now and then elsewhere."""

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from croc_cli.console import say
from croc_cli.sources.fetch.plan import size_text
from croc_cli.sources.read.progress import Progress, Task, Unit

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 30.0
"""Between two lines of one task where there is no terminal."""


def make_progress() -> "ConsoleProgress":
    """Return the progress that fits stderr: bars on a terminal, lines elsewhere."""
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return BarProgress() if is_terminal else ConsoleProgress()


class ConsoleProgress(Progress):
    """A line at the beginning of each task, one now and then, and one at its end; a context manager as bars are."""

    def __enter__(self) -> "ConsoleProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def task(self, label: str, total: int | None, unit: Unit) -> Task:
        """See `Progress.task`."""
        return _LineTask(label, total, unit)


class _LineTask(Task):
    def __init__(self, label: str, total: int | None, unit: Unit) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._said = time.monotonic()
        say(f"{label}{'' if total is None else f' ({self._text(total)})'}")

    def update(self, done: int, total: int | None = None) -> None:
        self._done, self._total = done, total if total is not None else self._total
        if time.monotonic() - self._said >= PLAIN_SECONDS:
            self._said = time.monotonic()
            of = f" of {self._text(self._total)}" if self._total is not None else ""
            say(f"{self._label}: {self._text(done)}{of}")

    def note(self, text: str) -> None:
        say(f"note: {text}")

    def close(self, summary: str = "") -> None:
        say(f"{self._label}: {summary or self._text(self._done)}")

    def _text(self, number: int) -> str:
        return size_text(number) if self._unit == "bytes" else f"{number:,} files"


class BarProgress(ConsoleProgress):
    """Bars of rich, one a task; closed ones stay until the end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.bars: RichProgress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            expand=True,
        )

    def __enter__(self) -> "BarProgress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def task(self, label: str, total: int | None, unit: Unit) -> Task:
        """See `Progress.task`."""
        return _BarTask(self.bars, label, total, unit)


class _BarTask(Task):
    def __init__(self, bars: "RichProgress", label: str, total: int | None, unit: Unit) -> None:
        self._bars, self._unit = bars, unit
        self._id: Any = bars.add_task(label, total=total, amount="")
        self._total = total
        self._first: int | None = None
        self._started = time.monotonic()

    def update(self, done: int, total: int | None = None) -> None:
        self._total = total if total is not None else self._total
        self._first = done if self._first is None else self._first
        passed = time.monotonic() - self._started
        rate = max(0, done - self._first) / passed if passed > 1 else 0.0
        self._bars.update(self._id, completed=done, total=self._total, amount=self._amount(done, rate))

    def note(self, text: str) -> None:
        self._bars.console.print(f"note: {text}", markup=False, highlight=False)

    def close(self, summary: str = "") -> None:
        if summary:
            self._bars.update(self._id, amount=summary)
        self._bars.stop_task(self._id)

    def _amount(self, done: int, rate: float) -> str:
        if self._unit == "bytes":
            of = f" of {size_text(self._total)}" if self._total else ""
            return f"{size_text(done)}{of}" + (f"  {size_text(round(rate))}/s" if rate else "")
        of = f" of {self._total:,}" if self._total else ""
        return f"{done:,}{of} files" + (f"  {rate:,.0f}/s" if rate else "")
