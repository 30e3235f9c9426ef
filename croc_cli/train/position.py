"""Where a rank is (step, micro-batch, module, collective, samples), kept as it runs and written by a thread.

A rank that hangs cannot say so itself, so a thread writes the position to the run folder once a second. The same thread
notices that nothing changes any more, writes the stack of every Python thread, and ends the process, as a rank that
waits in a collective will wait for ever.
"""

import faulthandler
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from croc_cli.errors import EXIT_RUN_FAILED, CrocError
from croc_cli.launch.process import ProcessIdentity, descendants, this_process
from croc_cli.run_dir import StageDir, read_json, write_json
from croc_cli.words import shown

WRITE_SECONDS = 1.0
KEPT_WORKS = 7
"""Earlier pieces of work that the file still names, so that whoever reads it every second misses no end."""
BUSY_SHARE = 0.05
BUSY_BYTES = 1 << 20
"""Share of a processor, or bytes read and written, between two looks from which on a process counts as at work."""
LOOK_AGAIN_SECONDS = 5.0
"""How long a rank that stands still waits for another that moves, before it looks at that one again."""
GRACE_SECONDS = 3.0
"""How long a rank that found itself hanging stays, so that the others can write where they are too."""
COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "monitored_barrier",
    "recv",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "send",
)


class Position:
    """What one rank is doing, as plain attributes that cost next to nothing to set."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.step = 0
        self.micro_batch: int | None = None
        self.module: str | None = None
        self.collective: str | None = None
        self.num_collectives = 0
        self.sample_ids: list[str] = []
        self.changes = 0
        self.num_works = 0
        self.works: list[dict[str, Any]] = []
        self._running: list[tuple[dict[str, Any], Callable[[], int] | None]] = []

    @contextmanager
    def working(
        self,
        doing: str,
        done: str,
        *,
        total: int | None = None,
        unit: str = "",
        opaque: bool = False,
        measure: Callable[[], int] | None = None,
    ) -> Iterator[Callable[..., None]]:
        """Note a piece of work that may take long; yields a function that takes how much is done, and of how much.

        The launch shows it as a bar. It moves the position each time that the function is called.

        Args:
            doing: Such as "loading the model".
            done: The same once it is done, such as "loaded the model".
            total: How much there is to do, where it is known.
            unit: What is counted: "bytes", or a plural such as "pictures".
            opaque: The work cannot say how far it is, and waits for no other rank: while the process computes, reads
                or writes, the position moves.
            measure: Tells how much is done, where another process or a library does the work; asked once a second.
        """
        self.num_works += 1
        work = {"number": self.num_works, "doing": doing, "did": done, "done": 0, "total": total, "unit": unit}
        work |= {"seconds": None, "opaque": opaque}
        self.works = [*self.works[-KEPT_WORKS:], work]
        self._running.append((work, measure))
        self.at(doing)
        started = time.monotonic()

        def moved(done: int, total: int | None = None) -> None:
            work["done"], work["total"] = done, work["total"] if total is None else total
            self.changes += 1

        try:
            yield moved
            work["ended"] = True
        finally:
            self.ask()
            self._running.pop()
            work["seconds"] = time.monotonic() - started
            self.changes += 1

    def ask(self) -> None:
        """Ask the measure of the running work, if it has one."""
        work, measure = self._running[-1] if self._running else ({}, None)
        if measure is None:
            return
        with suppress(OSError):
            done = measure()
            if done != work["done"]:
                work["done"] = done
                self.changes += 1

    def computes_alone(self) -> bool:
        """Tell whether work runs that cannot say how far it is, outside of collectives."""
        return bool(self._running) and self._running[-1][0]["opaque"] and not self.collective

    def at(self, phase: str, *, step: int | None = None, micro_batch: int | None = None) -> None:
        """Note that a phase begins; `step` counts from 1, `micro_batch` from 0 and is None outside of one."""
        self.phase = phase
        self.step = self.step if step is None else step
        self.micro_batch = micro_batch
        self.module = None
        self.changes += 1

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return own | {"sample_ids": self.sample_ids[:64]}

    @contextmanager
    def waiting(self, collective: str) -> Iterator[None]:
        """Note that this rank waits for the others."""
        self.collective = collective
        self.num_collectives += 1
        self.changes += 1
        try:
            yield
        finally:
            self.collective = None
            self.changes += 1

    def watch_modules(self, root: nn.Module) -> None:
        """Note the name of each module of `root` down to single layers when its forward pass begins."""

        def note(name: str, _module: nn.Module, _inputs: Any) -> None:
            self.module = name
            self.changes += 1

        for name, module in root.named_modules():
            if name and (name.split(".")[-1].isdigit() or not any(part.isdigit() for part in name.split("."))):
                module.register_forward_pre_hook(functools.partial(note, name))

    def watch_collectives(self) -> None:
        """Note each of torch's collectives while it runs; DeepSpeed calls them by these names."""
        for name in COLLECTIVES:
            function = getattr(dist, name, None)
            if function is not None and not hasattr(function, "croc_watched"):
                setattr(dist, name, self._watched(name, function))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.waiting(name):
                return function(*args, **kwargs)

        watched.croc_watched = True  # type: ignore[attr-defined]  # a mark that functions have no type for
        return watched


POSITION = Position()
"""Of this process, which is one rank."""


class PositionWriter(threading.Thread):
    """Writes the position of this rank, and ends the process when it hangs.

    Args:
        stage_dir: The stage's folder.
        rank: This rank.
        stall_timeout: Seconds without any change after which the rank hangs.
        position: What is written.
        parent: The process that launched the ranks; when it is gone, `parent_is_gone` becomes True.
        each_time: Called every second, too; what it raises ends the process.
        at_end: Called when the rank ends of itself.
        end: Ends the process.
    """

    def __init__(
        self,
        stage_dir: StageDir,
        *,
        rank: int,
        stall_timeout: float,
        position: Position = POSITION,
        parent: ProcessIdentity | None = None,
        each_time: Callable[[], None] = lambda: None,
        at_end: Callable[[], None] = lambda: None,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        super().__init__(name="croc-position", daemon=True)
        self.file = stage_dir.rank_file(rank)
        self.stack_file = stage_dir.stack_file(rank)
        self.rank = rank
        self.stall_timeout = stall_timeout
        self.position = position
        self.parent = parent
        self.parent_is_gone = False
        self.each_time = each_time
        self.at_end = at_end
        self.end = end
        self.beat = 0
        self._beats: dict[str, tuple[Any, Any]] = {}
        self._activity = _activity()
        self.process = this_process()
        self.ended = threading.Event()

    def start(self) -> None:
        """Begin; SIGUSR2 makes this process write its stack, whatever it hangs in."""
        for stale in (self.file, self.stack_file):
            stale.unlink(missing_ok=True)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._stack = self.stack_file.open("w", encoding="utf-8")
        if threading.current_thread() is threading.main_thread():
            faulthandler.register(signal.SIGUSR2, file=self._stack, all_threads=True)
        super().start()

    def run(self) -> None:
        """Write, look, wait; until `stop`."""
        changes, since, look = -1, time.monotonic(), 0.0
        while not self.ended.is_set():
            self.position.ask()
            if self.position.computes_alone() and self._was_busy():
                self.position.changes += 1
            if self.position.changes != changes:
                changes, since, look = self.position.changes, time.monotonic(), 0.0
            seconds = time.monotonic() - since
            self.write(seconds=seconds)
            self._do_each_time()
            if self.parent is not None and self.parent.is_here() and not self.parent.is_alive():
                self.parent_is_gone = True
                if self.position.step == 0:  # nothing to save yet; a compiler may still run for this rank
                    for pid in descendants(self.process.pid):
                        with suppress(OSError):
                            os.kill(pid, signal.SIGKILL)
                    self.end(EXIT_RUN_FAILED)
            if seconds >= max(self.stall_timeout, look):
                if not self._another_moves():
                    self._report(seconds)
                    return
                look = seconds + min(LOOK_AGAIN_SECONDS, self.stall_timeout / 2)
            self.ended.wait(min(WRITE_SECONDS, self.stall_timeout / 4))

    def _was_busy(self) -> bool:
        """Tell whether this process and its children have computed, read or written since the last look."""
        before, self._activity = self._activity, _activity()
        passed, computed, moved = (now - then for now, then in zip(self._activity, before, strict=True))
        return computed > BUSY_SHARE * passed or moved > BUSY_BYTES

    def _another_moves(self) -> bool:
        """Tell whether another rank moves, for which this one may be waiting.

        A rank that was killed writes no more, so its beat stands still.
        """
        found = False
        for file in self.file.parent.glob("rank-*.json"):
            record = read_json(file)
            beat = (record.get("beat"), record.get("process"))
            is_new = self._beats.get(file.name) != beat
            self._beats[file.name] = beat
            if file != self.file and is_new and record.get("state") == "running":
                found = found or float(record.get("seconds_unchanged", 0.0)) < self.stall_timeout
        return found

    def _do_each_time(self) -> None:
        try:
            self.each_time()
        except CrocError as error:
            print(f"error: {shown(error.message)}", file=sys.stderr, flush=True)
            self.end(error.exit_code)

    def write(self, *, seconds: float, state: str = "running") -> None:
        """Write the file; a disk that is full or away is no reason to stop.

        The folder is not made anew: where a mount has gone, that would fill the empty place that it left.
        """
        self.beat += 1
        if not self.file.parent.is_dir():
            return
        record = {
            "rank": self.rank,
            "process": self.process.as_json(),
            "beat": self.beat,
            "state": state,
            "seconds_unchanged": round(seconds, 1),
            **self.position.as_json(),
        }
        try:
            write_json(self.file, record)
        except OSError:
            return

    def stop(self) -> None:
        """Write that the rank ends of itself."""
        if self.ended.is_set():
            return
        self.ended.set()
        self.join(10)
        self.write(seconds=0.0, state="ended")
        self.at_end()

    def _report(self, seconds: float) -> None:
        self.write(seconds=seconds, state="hangs")
        faulthandler.dump_traceback(self._stack, all_threads=True)
        self._stack.flush()
        time.sleep(min(GRACE_SECONDS, self.stall_timeout))
        self.end(EXIT_RUN_FAILED)


def _activity() -> tuple[float, float, int]:
    """Return the time, the processor seconds of this process and its ended children, and the bytes that it moved."""
    times = os.times()
    moved = 0
    try:
        for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            moved += int(value) if name in ("rchar", "wchar") else 0
    except (OSError, ValueError):
        pass
    return time.monotonic(), times.user + times.system + times.children_user + times.children_system, moved
