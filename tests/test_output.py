import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from croc_cli.output import GuardedStream, OutputLoss


class Failing(io.StringIO):
    """A stream whose writes fail as the system's do."""

    name = "<stderr>"

    def __init__(self, code: int, *, terminal: bool = False) -> None:
        super().__init__()
        self.code, self.terminal = code, terminal

    def write(self, text: str) -> int:
        raise OSError(self.code, os.strerror(self.code))

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF])
def test_what_cannot_be_written_is_dropped_and_said_once_in_the_events(tmp_path: Path, code: int) -> None:
    loss, events = OutputLoss(), tmp_path / "events.jsonl"
    stream: Any = GuardedStream(Failing(code), loss)
    for _ in range(3):
        print("a line", file=stream, flush=True)
        loss.tell(events)
    [event] = [json.loads(line) for line in events.read_text().splitlines()]
    assert event["message"] == f"<stderr> cannot be written ({os.strerror(code)}); what is printed there is dropped"


def test_events_on_a_disk_that_is_full_are_tried_again(tmp_path: Path) -> None:
    loss = OutputLoss()
    print("a line", file=GuardedStream(Failing(errno.ENOSPC), loss))  # type: ignore[arg-type]
    loss.tell(tmp_path / "away" / "events.jsonl")
    (tmp_path / "away").mkdir()
    loss.tell(tmp_path / "away" / "events.jsonl")
    assert (tmp_path / "away" / "events.jsonl").exists()


def test_a_terminal_that_has_gone_counts_as_a_hangup_unless_hangups_are_ignored() -> None:
    for handler, terminal, expected in (
        (signal.SIG_DFL, True, True),
        (signal.SIG_IGN, True, False),
        (signal.SIG_DFL, False, False),
    ):
        before = signal.signal(signal.SIGHUP, handler)
        try:
            loss = OutputLoss()
            print("a line", file=GuardedStream(Failing(errno.EIO, terminal=terminal), loss))  # type: ignore[arg-type]
            assert loss.is_hangup is expected
        finally:
            signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_process_whose_reader_has_gone_ends_as_if_nothing_were_wrong(closed: str) -> None:
    code = (
        "import sys\n"
        "from croc_cli.output import guard_output\n"
        "guard_output(); sys.stdin.read()\n"
        f"for _ in range(1000): print('x' * 100, file=sys.{closed}, flush=True)\n"
    )
    pipes = {"stdin": subprocess.PIPE, closed: subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    reader = getattr(process, closed)
    reader.close()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_character_that_a_terminal_lacks_is_written_in_another_way() -> None:
    raw = io.BytesIO()
    stream: Any = GuardedStream(io.TextIOWrapper(raw, encoding="ascii"), OutputLoss())
    print("α ≤ 1", file=stream, flush=True)
    assert raw.getvalue() == b"\\u03b1 \\u2264 1\n"
