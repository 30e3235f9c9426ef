"""One run at a time in a run folder: who holds it is written there, and what a killed run left behind is recognised.

The holder is known by host, pid and start time. On this machine that settles whether it lives; one on another machine
counts a beat up in the lock file, and is taken for dead when the beat stands still. No clock of any machine is read.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from croc_cli.errors import RunError, UsageError
from croc_cli.launch.process import ProcessIdentity, this_process
from croc_cli.place import claim_run
from croc_cli.run_dir import RunDir, read_json, write_json

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 30.0
"""How long the beat of a holder on another machine stands still before the holder is taken for dead."""
RANKS_SECONDS = 180.0
"""How long a run waits for ranks that outlived their launch: they notice, save and end."""
_POLL_SECONDS = 0.5


class RunLock:
    """The right to write into a run folder; a context in which this process holds it.

    Args:
        run_dir: The run folder, made where it does not exist.
        doing: What this process does, for the message to others, such as `align`.
        say: Told what is waited for and what was taken over.
        claims: Make the folder a run's; False for the folder of a job of another kind.
        silence_seconds: See `SILENCE_SECONDS`.
        ranks_seconds: See `RANKS_SECONDS`.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        doing: str,
        say: Callable[[str], None],
        claims: bool = True,
        silence_seconds: float = SILENCE_SECONDS,
        ranks_seconds: float = RANKS_SECONDS,
    ) -> None:
        self.run_dir = run_dir
        self.file = run_dir.lock_file
        self.doing = doing
        self.say = say
        self.claims = claims
        self.silence_seconds = silence_seconds
        self.ranks_seconds = ranks_seconds
        self.own = this_process()
        self._beat = 0
        self._next_beat = 0.0
        self._nested = False

    def __enter__(self) -> "RunLock":
        """Take the folder.

        Raises:
            UsageError: Another run holds it, a user's files lie in it, or it cannot be written.
        """
        try:
            if self.claims:
                claim_run(self.run_dir)
            self.run_dir.root.mkdir(parents=True, exist_ok=True)
            self._acquire()
        except OSError as error:
            raise UsageError(
                f"{self.run_dir.root} cannot be written: {error.strerror or error}",
                hint="--run-dir DIR puts the run elsewhere",
            ) from error
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the folder back, if it is still ours."""
        if not self._nested and self._holder() == self.own:
            with suppress(OSError):
                self.file.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Show that this run lives; called often, it writes every few seconds.

        Raises:
            RunError: Another run has taken the folder over, as this one gave no sign of life.
        """
        if self._nested or time.monotonic() < self._next_beat or not self.run_dir.root.is_dir():
            return  # ours to show only where the folder is: a mount that has gone is not written into
        holder = self._holder()
        if holder is not None and holder != self.own:
            raise RunError(
                f"the run folder {self.run_dir.root} was taken over by a run on {holder.host} (pid {holder.pid})",
                hint="this one had stopped updating its lock; it ends without writing",
            )
        with suppress(OSError):  # a disk that is full or away for a while
            self._write()

    def _acquire(self) -> None:
        with self._guard():
            holder = self._holder()
            if holder == self.own:
                self._nested = True
                return
            if holder is None:
                self._write()
        if holder is None:
            self._wait_for_ranks()
            return
        if self._lives(holder):
            raise UsageError(self._describe(holder), hint="wait for it or stop it; --run-dir DIR keeps both")
        with self._guard():
            if self._holder() not in (holder, None):
                raise UsageError(self._describe(self._holder() or holder), hint="another run was faster")
            self._write()
        self.say(
            f"note: an earlier run (pid {holder.pid} on {holder.host}) ended without an error message; taking over"
        )
        self._wait_for_ranks()

    def _lives(self, holder: ProcessIdentity) -> bool:
        """Tell whether a holder lives; for one on another machine this takes as long as its silence must last."""
        if holder.is_here():
            return holder.is_alive()
        self.say(f"note: a run on {holder.host} holds {self.run_dir.root}; checking whether it is alive")
        beat = read_json(self.file).get("beat")
        deadline = time.monotonic() + self.silence_seconds
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            if read_json(self.file).get("beat") != beat:
                return self.file.exists()
        return False

    def _wait_for_ranks(self) -> None:
        """Wait until no rank of an earlier launch runs on this machine any more.

        Raises:
            UsageError: One still does after a while.
        """
        deadline = time.monotonic() + self.ranks_seconds
        told = False
        while ranks := list(running_ranks(self.run_dir)):
            stage, process = ranks[0]
            if not told:
                self.say(f"note: ranks of an earlier {stage} still run (pid {process.pid}); waiting for them to save")
                told = True
            if time.monotonic() > deadline:
                self.release()
                raise UsageError(
                    f"ranks of an earlier {stage} still run in {self.run_dir.root}, such as pid {process.pid}",
                    hint=f"`kill {process.pid}` ends it if it hangs; the same command then continues",
                )
            time.sleep(_POLL_SECONDS)

    def _describe(self, holder: ProcessIdentity) -> str:
        doing = read_json(self.file).get("doing") or "a run"
        return (
            f"{self.run_dir.root} is in use: {doing} runs there (pid {holder.pid} on {holder.host}, "
            f"since {read_json(self.file).get('since', 'an unknown time')})"
        )

    def _holder(self) -> ProcessIdentity | None:
        return ProcessIdentity.from_json(read_json(self.file).get("process"))

    def _write(self) -> None:
        self._next_beat = time.monotonic() + BEAT_SECONDS
        self._beat += 1
        since = read_json(self.file).get("since") if self._beat > 1 else None
        write_json(
            self.file,
            {
                "process": self.own.as_json(),
                "doing": self.doing,
                "command": " ".join(sys.argv),
                "since": since or time.strftime("%Y-%m-%d %H:%M:%S"),
                "beat": self._beat,
            },
        )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Keep two processes from judging the lock file at once, where the file system has locks."""
        folder = os.open(self.run_dir.root, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def running_ranks(run_dir: RunDir) -> Iterator[tuple[str, ProcessIdentity]]:
    """Yield (stage, process) of every rank of this machine that says in the run folder that it runs, and does."""
    own = run_dir.root.glob("ranks/rank-*.json")
    for file in sorted([*own, *run_dir.root.glob("*/ranks/rank-*.json")]):
        if RunDir(file.parent.parent).lock_file.exists() and file.parent.parent != run_dir.root:
            continue  # a job with a lock of its own, such as an evaluation, which writes nothing that a stage does
        process = ProcessIdentity.from_json(read_json(file).get("process"))
        if process is not None and process.is_here() and process.is_alive():
            yield stage_of(file), process


def stage_of(rank_file: Path) -> str:
    """Return the name of the stage whose folder a rank's file is in."""
    return rank_file.parent.parent.name
