"""What tests do to a running rank, from inside its own process, at a counted or named moment; and what the rank saw.

A moment is one of: a forward, backward or optimizer call of the engine, and every file that the rank opens to write,
renames, makes or removes in its run folder (Python's audit events), so a save alone has dozens of them.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
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
        at_rank: Rank to which something happens; None for none.
        at_moment: Its moment, by number from 1, or the first whose words hold this text.
        does: What happens then: `kill` ends the rank with SIGKILL, `kill_all` every rank of the run, `fill` leaves not
            a byte free on the run folder's disk, `term` is SIGTERM.
        count_to: File that gets the rank's moments, one line each, as `RANK.txt` in this folder; None for none.
        seen_to: Folder that gets what each rank trained on, as JSON lines; None for none.
        at_step: (rank, step from 0, what): `hang` sleeps for ever before the step, `exit` ends the process without a
            word, `skip` leaves the projector's layers out, `allocate` asks for more memory than there is,
            `nan_loss` makes the step's pictures not a number, `nan_gradient` one gradient alone; what begins with
            `$ ` is run by a shell.
        clock_jumps: `time.time()` jumps by up to a day, back and forth, at every call.
    """

    at_rank: int | None = None
    at_moment: int | str = 0
    does: str = "kill"
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
        if self.count_to is not None or self.at_rank == rank:
            target = self.at_moment if self.at_rank == rank else 0
            notes = Path(self.count_to) / f"{rank}.txt" if self.count_to else None
            _Moments(target, self.does, notes, root).install()


NO_FAULT = Fault()


def fill_disk(folder: Path) -> None:
    """Take every free byte of a folder's file system with a file named `ballast`."""
    with (folder / "ballast").open("ab") as file:
        free = os.statvfs(folder)
        if free.f_bavail:
            os.posix_fallocate(file.fileno(), file.tell(), free.f_bavail * free.f_frsize)


class _Moments:
    """Counts moments, notes them, and does something at one of them."""

    def __init__(self, target: int | str, does: str, notes: Path | None, stage_folder: Path) -> None:
        self.target = target
        self.does = does
        self.stage_folder = stage_folder
        self.root = str(stage_folder.parent)
        self.count = 0
        self.done = False
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
            if self.does.startswith("kill") and self.count + 1 == self.target:
                os.truncate(file, os.path.getsize(file) // 2)
            self.pass_one(f"written half {file}")
            return result

        return torn

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS or not str(args[0]).startswith(self.root):
            return
        if event == "os.mkdir" and os.path.isdir(str(args[0])):  # how often ranks race for one varies from run to run
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & _WRITING):
            return
        if not any(part in str(args[0]) for part in ("/logs/", "/ranks/")):  # a thread writes the latter, by the clock
            self.pass_one(f"{event} {args[0]}")

    def pass_one(self, what: str) -> None:
        if self.done:
            return
        self.count += 1
        if self.notes is not None:
            os.write(self.notes, f"{what}\n".encode())
        if self.target in what if isinstance(self.target, str) else self.count == self.target:
            self.done = True
            self._do()

    def _do(self) -> None:
        if self.does == "fill":
            fill_disk(Path(self.root).parent)
            return
        if self.does == "term":
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if self.does == "kill_all":
            for file in (self.stage_folder / "ranks").glob("rank-*.json"):
                pid = json.loads(file.read_text())["process"]["pid"]
                if pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def _do_at_steps(happening: dict[int, str]) -> None:
    """Do something to this rank when it begins certain steps."""
    import torch

    from croc_cli.train.trainer import Trainer

    original = Trainer._step

    def step(self, number, micro_batches, counts, *, clock):  # type: ignore[no-untyped-def]
        what = happening.get(number)
        if what == "hang":
            time.sleep(1e6)
        if what is not None and what.startswith("$ "):
            self.saver.wait()  # so that the last checkpoint is complete when it happens
            subprocess.run(what[2:], shell=True, check=True)
        if what == "exit":
            os._exit(7)
        if what == "skip":  # the projector's layers, as a rank without an image would in other trainers
            projector = self.module.model.llava.model.multi_modal_projector
            width = projector.linear_2.out_features
            projector.forward = lambda features: features.new_zeros(*features.shape[:-1], width)
        if what == "allocate":
            self.module.register_forward_pre_hook(lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
        if what == "nan_loss":
            micro_batches[0].pixel_values.fill_(float("nan"))
        handle = None
        if what == "nan_gradient":
            handle = self.module.model.llava.model.language_model.layers[0].register_full_backward_pre_hook(
                lambda _m, out: (out[0] * float("nan"), *out[1:])
            )
        result = original(self, number, micro_batches, counts, clock=clock)
        if handle is not None:
            handle.remove()
        return result

    Trainer._step = step  # type: ignore[method-assign]


def _write_what_is_seen(folder: Path, rank: int) -> None:
    """Write the samples and masks of every step that is trained."""
    from croc_cli.train.trainer import Trainer

    original = Trainer._step

    def step(self, number, micro_batches, counts, *, clock):  # type: ignore[no-untyped-def]
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
        return original(self, number, micro_batches, counts, clock=clock)

    Trainer._step = step  # type: ignore[method-assign]
