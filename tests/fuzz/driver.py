"""Runs cases in a worker process that is started again when it dies or hangs, and says what went wrong with each."""

import hashlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.case import Answer, Case

HANG_SECONDS = 240.0
"""Wall-clock time after which a command that uses no CPU hangs; far more than a busy machine needs."""
COMMANDS_A_WORKER = 2000
_NOT_EXPECTED = re.compile(r"Traceback \(most recent call last\)|the full traceback is in|^Fatal Python error", re.M)
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
"""What steers a terminal; rich's bars are off, as no output here is a terminal."""


@dataclass(frozen=True)
class Failure:
    """A case that croc answered wrongly.

    Args:
        place: Group, seed and number of the case.
        command: The arguments of `croc`.
        reason: What is wrong.
        detail: The end of what the command said.
    """

    place: str
    command: tuple[str, ...]
    reason: str
    detail: str

    def __str__(self) -> str:
        """Return it as lines that name the seed."""
        return f"{self.place}: croc {' '.join(self.command)}\n  {self.reason}\n  {self.detail}"


class Driver:
    """Runs cases, one after another.

    Args:
        scratch: Folder for the cases; each gets a folder of its own, which goes when the case has passed.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._worker: subprocess.Popen[str] | None = None
        self._num_commands = 0
        self._log = (scratch / "worker.log").open("w+b")

    def run(self, case: Case, place: str) -> list[Failure]:
        """Try every command of a case and return what went wrong."""
        room = Path(tempfile.mkdtemp(prefix="case-", dir=self._scratch))
        folder = room / "folder"
        for name in ("folder", "home", "tmp"):
            (room / name).mkdir()
        case.write(folder)
        before = _snapshot(room, case)
        failures = []
        for command in case.commands:
            reason, answer = self._try(case, command, room)
            if reason is None and (changed := sorted(_differences(before, _snapshot(room, case)))):
                reason = f"changed outside its output folder: {', '.join(changed[:5])}"
            if reason is None and case.check is not None:
                reason = case.check(answer, folder)
            if reason is not None:
                said = [
                    answer.err or answer.out,
                    *(file.read_text() for file in (room / "tmp").glob("croc-traceback*")),
                ]
                detail = " / ".join(line.strip() for line in said[-1].strip().splitlines()[-8:])
                failures.append(Failure(f"{place} ({case.note})", command, reason, detail))
                break  # what later commands say rests on this one
        _remove(room)
        return failures

    def close(self) -> None:
        """End the worker."""
        self._end_worker()
        self._log.close()

    def _try(self, case: Case, command: tuple[str, ...], room: Path) -> tuple[str | None, Answer]:
        worker = self._started()
        environ = {"HOME": str(room / "home"), "TMPDIR": str(room / "tmp"), "XDG_CACHE_HOME": str(room / "home/cache")}
        order = {
            "folder": str(room / "folder"),
            "argv": list(command),
            "seconds": case.seconds,
            "environ": environ | dict(case.environ),
        }
        start = self._log.seek(0, os.SEEK_END)
        assert worker.stdin is not None
        line: str | None = ""
        with suppress(BrokenPipeError):  # it died between two commands
            worker.stdin.write(json.dumps(order) + "\n")
            worker.stdin.flush()
            line = _line_within(worker, max(HANG_SECONDS, 10 * case.seconds))
        self._num_commands += 1
        if not line:
            reason = self._end_worker(hung=line is None, seconds=case.seconds)
            self._log.seek(start)
            return reason, Answer(-1, "", self._log.read().decode("utf-8", "replace"))
        got: dict[str, Any] = json.loads(line)
        answer = Answer(got["code"], got["out"], got["err"])
        if _NOT_EXPECTED.search(answer.err) or _NOT_EXPECTED.search(answer.out):
            return "a traceback", answer
        if raw := _RAW.search(answer.err + answer.out):
            return f"a raw control character {raw[0]!r}", answer
        if answer.code not in case.allowed:
            return f"exit code {answer.code}, allowed are {sorted(case.allowed)}", answer
        return None, answer

    def _started(self) -> "subprocess.Popen[str]":
        if self._num_commands >= COMMANDS_A_WORKER:
            self._end_worker()
        if self._worker is None:
            self._num_commands = 0
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                cwd=Path(__file__).parents[2],
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "80"},
            )
        return self._worker

    def _end_worker(self, *, hung: bool = False, seconds: float = 0.0) -> str:
        worker, self._worker = self._worker, None
        if worker is None:
            return ""
        if hung:
            worker.kill()
        assert worker.stdin is not None
        assert worker.stdout is not None
        with suppress(BrokenPipeError):
            worker.stdin.close()
        code = worker.wait()
        worker.stdout.close()
        if hung:
            return f"hangs: no answer in {max(HANG_SECONDS, 10 * seconds):g} s"
        if code == -signal.SIGPROF:
            return f"takes more than {seconds:g} s of CPU time"
        return f"the process died with {code}"


@contextmanager
def open_driver() -> Iterator[Driver]:
    """Yield a driver with a scratch folder that goes when it ends."""
    scratch = Path(tempfile.mkdtemp(prefix="croc-fuzz-"))
    driver = Driver(scratch)
    try:
        yield driver
    finally:
        driver.close()
        _remove(scratch)


def _line_within(worker: "subprocess.Popen[str]", seconds: float) -> str | None:
    """Return the worker's next line, "" where it died, None where it says nothing for so long."""
    assert worker.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        return worker.stdout.readline() if selector.select(seconds) else None


def _snapshot(room: Path, case: Case) -> dict[str, str]:
    """Return what lies in a room, without what the case may write: kind, mode and content of each path."""
    free = {room / "home", room / "tmp", *(room / "folder" / name for name in case.writes)}
    found = {}
    for top, folders, files in os.walk(room):
        here = Path(top)
        folders[:] = [name for name in folders if here / name not in free]
        for name in (*folders, *files):
            path = here / name
            if path in free:
                continue
            if path.is_symlink():
                found[str(path.relative_to(room))] = f"link to {path.readlink()}"
            elif path.is_file():
                found[str(path.relative_to(room))] = _content(path)
            else:
                found[str(path.relative_to(room))] = "folder" if path.is_dir() else "special"
    return found


def _content(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes()).hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _differences(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def _remove(folder: Path) -> None:
    for top, folders, _ in os.walk(folder):
        for name in folders:
            if not (path := Path(top, name)).is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
