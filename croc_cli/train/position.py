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
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import nn

from croc_cli.errors import EXIT_RUN_FAILED, CrocError
from croc_cli.launch.process import ProcessIdentity, this_process
from croc_cli.run_dir import StageDir, write_json

WRITE_SECONDS = 1.0
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

    def at(self, phase: str, *, step: int | None = None, micro_batch: int | None = None) -> None:
        """Note that a phase begins; `step` counts from 1, `micro_batch` from 0 and is None outside of one."""
        self.phase = phase
        self.step = self.step if step is None else step
        self.micro_batch = micro_batch
        self.module = None
        self.changes += 1

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return dict(vars(self)) | {"sample_ids": self.sample_ids[:64]}

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
            self.collective = name
            self.num_collectives += 1
            self.changes += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.collective = None
                self.changes += 1

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
        changes, since = -1, time.monotonic()
        while not self.ended.is_set():
            if self.position.changes != changes:
                changes, since = self.position.changes, time.monotonic()
            seconds = time.monotonic() - since
            self.write(seconds=seconds)
            self._do_each_time()
            if self.parent is not None and self.parent.is_here() and not self.parent.is_alive():
                self.parent_is_gone = True
            if seconds >= self.stall_timeout:
                self._report(seconds)
                return
            self.ended.wait(min(WRITE_SECONDS, self.stall_timeout / 4))

    def _do_each_time(self) -> None:
        try:
            self.each_time()
        except CrocError as error:
            print(f"error: {error.message}", file=sys.stderr, flush=True)
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
