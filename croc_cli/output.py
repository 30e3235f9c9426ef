"""Keeps a process alive whose output cannot be written: a closed pipe, a full disk, a terminal that has gone.

What cannot be written is dropped. A run says so once, in its events.jsonl, and a terminal that has gone counts as the
SIGHUP that it should have sent.
"""

import errno
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

_COMES_BACK = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR)
"""Errors after which the next write is tried again; after all others the stream is given up."""


class OutputLoss:
    """What is known of output that was lost in this process."""

    def __init__(self) -> None:
        self.reason = ""
        self.is_hangup = False
        self.streams: list[GuardedStream] = []
        self._is_told = False

    def note(self, name: str, error: Exception, *, was_terminal: bool) -> None:
        """Note a failed write; the first one's reason is kept."""
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.reason = self.reason or f"{name} cannot be written ({why}); what is printed there is dropped"
        has_gone = isinstance(error, OSError) and error.errno == errno.EIO and was_terminal
        if has_gone and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self.is_hangup = True

    def look(self) -> None:
        """See whether a terminal has gone: what draws lines over themselves stops writing to one that has."""
        for stream in self.streams:
            stream.look()

    def tell(self, events_file: Path) -> None:
        """Write the loss to a run's events, once; a disk that is full is tried again at the next call."""
        if not self.reason or self._is_told:
            return
        event = {"time": time.time(), "level": "warning", "message": self.reason}
        with suppress(OSError), events_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")
            self._is_told = True


LOSS = OutputLoss()
"""Of this process."""


class GuardedStream:
    """A text stream whose writes never fail.

    Args:
        stream: What is written to.
        loss: Told of what fails.
    """

    def __init__(self, stream: TextIO, loss: OutputLoss) -> None:
        self._stream = stream
        self._loss = loss
        self._was_terminal = _is_terminal(stream)
        loss.streams.append(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            return self._stream.write(text)
        except UnicodeError:  # a character that the terminal's encoding lacks
            encoding = self._stream.encoding
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self._drop(error)
            return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write every line, or drop it."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._drop(error)

    def look(self) -> None:
        """Note it where the stream was a terminal and is none any more."""
        if self._was_terminal and not _is_terminal(self._stream):
            self._drop(OSError(errno.EIO, os.strerror(errno.EIO)))
            self._was_terminal = False

    def _drop(self, error: Exception) -> None:
        self._loss.note(getattr(self._stream, "name", "output"), error, was_terminal=self._was_terminal)
        if isinstance(error, OSError) and error.errno not in _COMES_BACK:
            with suppress(OSError, ValueError):  # so that what lies in its buffer does not fail again at exit
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, self._stream.fileno())
                os.close(sink)


def guard_output() -> None:
    """Let no write to stdout and stderr fail from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, GuardedStream):
            setattr(sys, name, GuardedStream(stream, LOSS))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (OSError, ValueError):
        return False
