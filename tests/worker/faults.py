"""What tests do to a running rank, from inside its own process: kill it at a counted moment, and write what it saw.

A moment is one of: a forward, backward or optimizer call of the engine, and every file that the rank opens to write,
renames, makes or removes in its run folder (Python's audit events), so a save alone has dozens of them.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND


@dataclass(frozen=True)
class Fault:
    """What happens to the ranks of one launch.

    Args:
        kill_rank: Rank that is killed with SIGKILL; None for none.
        kill_at: Its moment at which it is killed, from 1.
        count_to: File that gets the rank's moments, one line each, as `RANK.txt` in this folder; None for none.
        seen_to: Folder that gets what each rank trained on, as JSON lines; None for none.
        at_step: (rank, step from 0, what): `hang` sleeps for ever before the step, `exit` ends the process without a
            word, `nan_loss` makes the step's pictures not a number, `nan_gradient` one gradient alone.
        clock_jumps: `time.time()` jumps by up to a day, back and forth, at every call.
    """

    kill_rank: int | None = None
    kill_at: int = 0
    count_to: str | None = None
    seen_to: str | None = None
    at_step: tuple[tuple[int, int, str], ...] = ()
    clock_jumps: bool = False

    def install(self, rank: int, root: Path) -> None:
        """Prepare this process, which is about to become rank `rank`; root: the stage's folder."""
        if self.seen_to is not None:
            _write_what_is_seen(Path(self.seen_to), rank)
        if happening := {step: what for at_rank, step, what in self.at_step if at_rank == rank}:
            _do_at_steps(happening)
        if self.clock_jumps:
            draw, clock = random.Random(rank), time.time
            time.time = lambda: clock() + draw.uniform(-86_400, 86_400)
        if self.count_to is not None or self.kill_rank == rank:
            target = self.kill_at if self.kill_rank == rank else 0
            _Moments(target, Path(self.count_to) / f"{rank}.txt" if self.count_to else None, root.parent).install()


NO_FAULT = Fault()


class _Moments:
    """Counts moments, notes them, and ends the process at one of them."""

    def __init__(self, target: int, notes: Path | None, root: Path) -> None:
        self.target = target
        self.root = str(root)
        self.count = 0
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if notes else None

    def install(self) -> None:
        from deepspeed.runtime.engine import DeepSpeedEngine

        for name in ("forward", "backward", "step"):
            setattr(DeepSpeedEngine, name, self._counted(name, getattr(DeepSpeedEngine, name)))
        import safetensors.torch
        import torch

        # these two write from native code, which raises no audit events
        safetensors.torch.save_file = self._torn(safetensors.torch.save_file)
        torch.save = self._torn(torch.save)
        sys.addaudithook(self._audit)

    def _counted(self, name: str, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.pass_one(name)
            return function(*args, **kwargs)

        return counted

    def _torn(self, function: Any) -> Any:
        """Return `function(what, file, …)` with two moments: before it, and when half of the file is there."""

        def torn(what: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
            self.pass_one(f"write {file}")
            result = function(what, file, *args, **kwargs)
            if self.count + 1 == self.target:
                os.truncate(file, os.path.getsize(file) // 2)
            self.pass_one(f"written half {file}")
            return result

        return torn

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS or not str(args[0]).startswith(self.root):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & _WRITING):
            return
        if "/logs/" not in str(args[0]):
            self.pass_one(f"{event} {args[0]}")

    def pass_one(self, what: str) -> None:
        self.count += 1
        if self.notes is not None:
            os.write(self.notes, f"{what}\n".encode())
        if self.count == self.target:
            os.kill(os.getpid(), signal.SIGKILL)


def _do_at_steps(happening: dict[int, str]) -> None:
    """Do something to this rank when it begins certain steps."""
    from croc_cli.train.trainer import Trainer

    original = Trainer._step

    def step(self, number, micro_batches, counts, *, started):  # type: ignore[no-untyped-def]
        what = happening.get(number)
        if what == "hang":
            time.sleep(1e6)
        if what == "exit":
            os._exit(7)
        if what == "nan_loss":
            micro_batches[0].pixel_values.fill_(float("nan"))
        handle = None
        if what == "nan_gradient":
            handle = self.module.model.llava.model.language_model.layers[0].register_full_backward_pre_hook(
                lambda _m, out: (out[0] * float("nan"), *out[1:])
            )
        result = original(self, number, micro_batches, counts, started=started)
        if handle is not None:
            handle.remove()
        return result

    Trainer._step = step  # type: ignore[method-assign]


def _write_what_is_seen(folder: Path, rank: int) -> None:
    """Write the samples and masks of every step that is trained."""
    from croc_cli.train.trainer import Trainer

    original = Trainer._step

    def step(self, number, micro_batches, counts, *, started):  # type: ignore[no-untyped-def]
        for batch in micro_batches:
            masks = [] if batch.masked is None else batch.masked.int().tolist()
            rows = [
                hashlib.sha256(bytes(mask)).hexdigest()[:16] if real else ""
                for mask, real in zip(masks, batch.image_is_real.tolist(), strict=False)
            ]
            owners = [batch.sample_ids[row] if row >= 0 else "" for row in batch.image_rows.tolist()]
            entry = {"step": number, "samples": batch.sample_ids, "masks": sorted(zip(owners, rows, strict=False))}
            with (folder / f"rank-{rank}.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")
        return original(self, number, micro_batches, counts, started=started)

    Trainer._step = step  # type: ignore[method-assign]
