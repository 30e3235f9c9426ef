"""How far a long piece of work is, on stderr: a line that changes on a terminal, one every ten seconds elsewhere."""

import os
import shutil
import sys
import time
from types import TracebackType
from typing import TextIO

LIVE_SECONDS = 0.1
PLAIN_SECONDS = 10.0


class WorkLine:
    """Shows progress; an instance is called with (what, done, total or None).

    Args:
        unit: What is counted, such as "rows".
        stream: Left out: stderr.
    """

    def __init__(self, unit: str, stream: TextIO | None = None) -> None:
        self.unit = unit
        self.stream = sys.stderr if stream is None else stream
        self.is_live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._what = ""
        self._started = self._shown = time.monotonic()
        self._first = 0
        self._width = 0

    def __enter__(self) -> "WorkLine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def __call__(self, what: str, done: int, total: int | None = None) -> None:
        """Take how far the work is."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._first = what, now, done
        elif now - self._shown < (LIVE_SECONDS if self.is_live else PLAIN_SECONDS):
            return
        elif not self.is_live:
            self._print(done, total, now)
            return
        if self.is_live:
            self._print(done, total, now)

    def _print(self, done: int, total: int | None, now: float) -> None:
        self._shown = now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        text = f"{self._what}  {done:,}" + (f" of {total:,}" if total is not None else "") + f" {self.unit}"
        if now - self._started > 1 and rate > 0:
            text += f", {rate:,.0f}/s"
            text += f", {_time(max(total - done, 0) / rate)} left" if total is not None else ""
        if not self.is_live:
            print(text, file=self.stream, flush=True)
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        self.stream.write("\r" + text.ljust(self._width))
        self.stream.flush()
        self._width = len(text)

    def _clear(self) -> None:
        if self.is_live and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()
            self._width = 0


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
