"""A long run with a seeded random fault in every fifty steps, driven from outside of its ranks, beside an unbroken one.

Faults: SIGKILL of one rank or of all, SIGTERM, a corrupt image, a full disk, another number of ranks. What happens, at
which step and how many milliseconds into it, comes from the seed.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from croc_cli.data.sampler import StepSampler
from croc_cli.demo.dataset import SceneDataset
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir
from tests.worker.faults import Fault, fill_disk
from tests.worker.harness import row
from tests.worker.ranks import ForkServerProcess, kill_ranks, start_ranks, wait_for_ranks

STAGE = "reconstruct"
FAULT_EVERY = 50
SAVE_EVERY = 20
GLOBAL_SIZE = 2
SEED = 6
KINDS = ("kill a rank", "kill all", "SIGTERM", "corrupt image", "full disk", "rank change")
LONGEST_DELAY = 0.3
"""Seconds after a step's line at which a fault comes at the latest: within the next steps, or within a save."""
POLL_SECONDS = 0.005
SILENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Planned:
    """One fault: after which step, how long after it, what, and which of the ranks where only one is meant."""

    step: int
    delay: float
    kind: str
    rank: int


@dataclass
class Figures:
    """What a soak came to.

    Args:
        steps: Optimizer steps of the run.
        faults: Number of faults by kind.
        launches: Times that ranks were started.
        ranks_of_launches: How many launches had how many ranks.
        steps_repeated: Steps that were run again, as they came after the last complete checkpoint.
        steps_lost: Steps that are missing at the end.
        seconds: Of the whole soak.
    """

    steps: int
    faults: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    ranks_of_launches: Counter[int] = field(default_factory=Counter)
    steps_repeated: int = 0
    steps_lost: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        counters = {"faults": dict(self.faults), "ranks_of_launches": dict(self.ranks_of_launches)}
        return vars(self) | counters  # asdict() makes counters of pairs


def plan_faults(num_steps: int, *, seed: int = SEED) -> list[Planned]:
    """Return a fault for every fifty steps; every kind comes equally often, in random order."""
    draw = random.Random(seed)
    count = num_steps // FAULT_EVERY
    kinds = [KINDS[index % len(KINDS)] for index in range(count)]
    draw.shuffle(kinds)
    last = FAULT_EVERY - 5  # so that a fault is over before the next one comes, and before the last step
    return [
        Planned(index * FAULT_EVERY + draw.randint(1, last), draw.uniform(0, LONGEST_DELAY), kind, draw.randrange(2))
        for index, kind in enumerate(kinds)
    ]


def make_data(folder: Path, *, num_samples: int) -> None:
    """Draw nano's scenes of stage 1.5 into files, so that they can be corrupted; a fifth of them told in words."""
    (folder / "images").mkdir(parents=True)
    scenes = SceneDataset("detailed_captions", num_samples=num_samples, seed=SEED, text_only_share=0.2)
    rows = []
    for index in range(num_samples):
        sample = scenes[index]
        turns = [(turn.role, turn.text) for turn in sample.turns]
        image = {}
        if sample.images:
            image = {"image": f"{index}.png"}
            sample.images[0].open().save(folder / "images" / f"{index}.png")
        rows.append(row(f"scene-{index}", turns, **image))
    (folder / "data.json").write_text(json.dumps(rows))


def make_recipe(data: Path, *, num_steps: int) -> Recipe:
    """Return nano's stage 1.5 in global batches of two: two micro-batches of one rank, or one of each of two ranks."""
    values: dict[str, object] = {
        f"data.{STAGE}.kind": "llava_json",
        f"data.{STAGE}.path": str(data / "data.json"),
        f"data.{STAGE}.image_folder": str(data / "images"),
        "data.num_workers": 0,
        "data.max_bad_images": 10 * num_steps,
        f"{STAGE}.batch.global_size": GLOBAL_SIZE,
        f"{STAGE}.batch.micro_size": 1,
        f"{STAGE}.max_steps": num_steps,
        f"{STAGE}.zero_stage": 2,
        f"{STAGE}.save_every": SAVE_EVERY,
        f"{STAGE}.seed": SEED,
        f"{STAGE}.optimizer.clip_norm": 0.0,  # the norm of two ranks' parts differs in its last bit
        "launch.stall_timeout": 120,
    }
    return load_recipe("nano", overrides={key: (value, "soak") for key, value in values.items()}, environ={}).recipe


def pictures_to_corrupt(faults: list[Planned], *, data: Path, num_samples: int) -> dict[int, Path]:
    """Return the picture that each corrupt-image fault spoils, by the fault's step: one that comes some steps later."""
    sampler = StepSampler(num_samples, global_size=GLOBAL_SIZE, micro_size=1, rank=0, num_ranks=1, seed=SEED)
    found = {}
    for fault in faults:
        if fault.kind != "corrupt image":
            continue
        for step in range(fault.step + 10, fault.step + 30):
            files = [data / "images" / f"{index}.png" for index in sampler.global_batch(step)]
            if files := [file for file in files if file.exists()]:
                found[fault.step] = files[0]
                break
    return found


def corrupt(picture: Path) -> None:
    """Cut a picture's file in half."""
    os.truncate(picture, picture.stat().st_size // 2)


def last_step(stage_dir: StageDir) -> int:
    """Return the step of the last whole line of metrics, 0 where there is none."""
    try:
        with stage_dir.metrics_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError, KeyError):
        return 0


def run_unbroken(root: Path, recipe: Recipe, *, num_steps: int, spoil: list[Path], seen: Path) -> StageDir:
    """Run the stage in one go on one rank; the pictures are spoilt once it has begun, long before they come."""
    stage_dir, processes = start_ranks(recipe, STAGE, root, start=None, fault=Fault(seen_to=str(seen)))
    try:
        _wait_until(stage_dir, processes, step=1)
        for picture in spoil:
            corrupt(picture)
        _wait_until(stage_dir, processes, step=num_steps)
        ended = wait_for_ranks(stage_dir, processes)
        assert ended.codes == [0], ended.logs
    finally:
        kill_ranks(processes)
    return stage_dir


def run_soak(
    disk: Path, recipe: Recipe, faults: list[Planned], *, num_steps: int, spoil: dict[int, Path], seen: Path
) -> tuple[StageDir, Figures]:
    """Run the stage through all faults to its end.

    Args:
        disk: A small file system of its own, in which the run folder lies.
        recipe: Of the stage.
        faults: In the order of their steps.
        num_steps: Optimizer steps of the stage.
        spoil: Picture of each corrupt-image fault.
        seen: Folder that gets what the ranks trained on.

    Returns:
        The stage's folder, and what it came to but for the comparison with the unbroken run.
    """
    figures = Figures(num_steps)
    started = time.monotonic()
    pending = list(faults)
    num_ranks = 1
    stage_dir = StageDir(disk / "run" / STAGE)
    while True:
        reached = last_step(stage_dir)
        fault = Fault(seen_to=str(seen))
        _, processes = start_ranks(recipe, STAGE, disk / "run", start=None, num_ranks=num_ranks, fault=fault)
        figures.launches += 1
        figures.ranks_of_launches[num_ranks] += 1
        try:
            first = _first_step(stage_dir, processes, reached)
            figures.steps_repeated += max(0, reached - first + 1) if first else 0
            asked = _go_on(stage_dir, processes, pending, disk, spoil, figures)
            ended = wait_for_ranks(stage_dir, processes)
        finally:
            kill_ranks(processes)
        (disk / "ballast").unlink(missing_ok=True)
        if asked is None:
            assert ended.codes == [0] * num_ranks, (ended.messages, ended.logs)
            break
        _check_how_it_ended(asked, ended.codes, ended.messages)
        if asked == "rank change":
            num_ranks = 3 - num_ranks
    steps = [json.loads(line)["step"] for line in stage_dir.metrics_file.read_text().splitlines()]
    figures.steps_lost = len(set(range(1, num_steps + 1)) - set(steps))
    figures.seconds = time.monotonic() - started
    return stage_dir, figures


def _go_on(
    stage_dir: StageDir,
    processes: list[ForkServerProcess],
    pending: list[Planned],
    disk: Path,
    spoil: dict[int, Path],
    figures: Figures,
) -> str | None:
    """Let the run go on until a fault ends it, and return the fault's kind; None where the run reaches its end."""
    while pending:
        fault = pending[0]
        if not _wait_until(stage_dir, processes, step=fault.step):
            return None
        pending.pop(0)
        time.sleep(fault.delay)
        figures.faults[fault.kind] += 1
        if fault.kind == "corrupt image":
            corrupt(spoil[fault.step])
            continue
        if fault.kind == "full disk":
            fill_disk(disk)
        elif fault.kind == "kill all":
            kill_ranks(processes)
        elif fault.kind == "kill a rank":
            os.kill(_pid(processes[fault.rank % len(processes)]), signal.SIGKILL)
        elif fault.kind == "SIGTERM":
            for process in processes:
                os.kill(_pid(process), signal.SIGTERM)
        else:
            stage_dir.stop_file.touch()
        return fault.kind
    return None


def _check_how_it_ended(kind: str, codes: list[int], messages: list[str]) -> None:
    if kind == "full disk":
        assert 1 in codes, (codes, messages)
        assert any("disk full" in message for message in messages), messages
    elif kind in ("SIGTERM", "rank change"):
        assert set(codes) == {130}, (kind, codes, messages)
    else:
        assert -signal.SIGKILL in codes, (kind, codes, messages)


def _wait_until(stage_dir: StageDir, processes: list[ForkServerProcess], *, step: int) -> bool:
    """Wait until a step's line is written; False where the ranks have ended before."""
    seen, since = -1, time.monotonic()
    while (now := last_step(stage_dir)) < step:
        if any(process.exitcode is not None for process in processes):
            return last_step(stage_dir) >= step
        if now != seen:
            seen, since = now, time.monotonic()
        assert time.monotonic() - since < SILENCE_SECONDS, f"step {now} for {SILENCE_SECONDS:.0f} s"
        time.sleep(POLL_SECONDS)
    return True


def _first_step(stage_dir: StageDir, processes: list[ForkServerProcess], reached: int) -> int | None:
    """Return the first step that a launch trains, by its ranks' own words; None where it trains none."""
    while all(process.exitcode is None for process in processes):
        try:
            record = json.loads(stage_dir.rank_file(0).read_text())
        except (OSError, ValueError):
            record = {}
        if record.get("process", {}).get("pid") == processes[0].pid and record.get("step"):
            return int(record["step"])
        time.sleep(POLL_SECONDS)
    return None


def _pid(process: ForkServerProcess) -> int:
    assert process.pid is not None
    return process.pid
