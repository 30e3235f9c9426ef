"""Real ranks over gloo without a launcher: forked from a process that has imported everything, so they start fast.

Each rank is the worker's own `main`, in a process of its own that can be killed, stopped and looked at. What is done to
it is a `Fault` (tests/worker/faults.py), installed in that process before the worker starts.
"""

import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from croc_cli.launch.deepspeed_config import deepspeed_config
from croc_cli.launch.job import find_free_port
from croc_cli.names import StageName
from croc_cli.recipe.load import dump_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir, read_json
from tests.worker.faults import NO_FAULT, Fault

PRELOADED = ["croc_cli.worker.training", "croc_cli.worker.__main__", "tests.worker.faults", "deepspeed"]
END_SECONDS = 240.0
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


@dataclass
class Ended:
    """How the ranks of one launch ended.

    Args:
        codes: Exit code of each rank, negative for a signal.
        messages: What each rank's failure file says.
        logs: What each rank printed.
    """

    codes: list[int]
    messages: list[str]
    logs: list[str] = field(repr=False)


def start_ranks(
    recipe: Recipe,
    stage: StageName,
    root: Path,
    *,
    start: Path | None,
    num_ranks: int = 1,
    fault: Fault = NO_FAULT,
    environment: dict[str, str] | None = None,
    preflight: bool = False,
) -> tuple[StageDir, list[ForkServerProcess]]:
    """Write what a launch writes, and start every rank of it."""
    stage_dir = StageDir(root / stage)
    stage_dir.logs.mkdir(parents=True, exist_ok=True)
    for stale in (stage_dir.stop_file, *stage_dir.failures.glob("rank-*.json")):
        stale.unlink(missing_ok=True)
    stage_dir.recipe_file.write_text(dump_recipe(recipe))
    config = deepspeed_config(recipe, stage, num_ranks=num_ranks, stage_folder=str(stage_dir.root), on_gpu=False)
    stage_dir.deepspeed_file.write_text(json.dumps(config))
    shared = {
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_port()),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    } | (environment or {})
    processes = []
    for rank in range(num_ranks):
        own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = _context.Process(target=_rank, args=(str(stage_dir.root), stage, start, own, fault, preflight))
        process.start()
        processes.append(process)
    return stage_dir, processes


def wait_for_ranks(
    stage_dir: StageDir, processes: Sequence[ForkServerProcess], *, seconds: float = END_SECONDS
) -> Ended:
    """Wait for the end of all; when one fails, kill the others, as the launcher does."""
    deadline = time.monotonic() + seconds
    while any(process.exitcode is None for process in processes):
        failed = any(process.exitcode not in (None, 0) for process in processes)
        assert time.monotonic() < deadline, f"ranks still run after {seconds:.0f} s"
        if failed:
            time.sleep(1.0)  # as long as the launcher takes to notice; the others may still write why
            kill_ranks(processes)
        time.sleep(0.02)
    records = [stage_dir.failure_file(rank) for rank in range(len(processes))]
    messages = [str(read_json(file).get("message", "")) for file in records]
    files = [_log(stage_dir, rank) for rank in range(len(processes))]
    logs = [file.read_text(errors="replace") if file.exists() else "" for file in files]
    return Ended([process.exitcode or 0 for process in processes], messages, logs)


def kill_ranks(processes: Sequence[ForkServerProcess]) -> None:
    """Kill -9 every rank that still runs."""
    for process in processes:
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join(20)


def run_ranks(
    recipe: Recipe, stage: StageName, root: Path, *, start: Path | None, seconds: float = END_SECONDS, **options: Any
) -> tuple[StageDir, Ended]:
    """Start ranks and wait for their end; options: those of `start_ranks`."""
    stage_dir, processes = start_ranks(recipe, stage, root, start=start, **options)
    try:
        return stage_dir, wait_for_ranks(stage_dir, processes, seconds=seconds)
    finally:
        kill_ranks(processes)


def _log(stage_dir: StageDir, rank: int) -> Path:
    return stage_dir.logs / f"forked_rank{rank}.log"


def _rank(
    root: str, stage: str, start: Path | None, environment: dict[str, str], fault: Fault, preflight: bool
) -> None:
    """Be one rank: the process's body."""
    import torch

    from croc_cli.worker.__main__ import main

    os.environ.update(environment)
    rank = int(environment["RANK"])
    with _log(StageDir(Path(root)), rank).open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)

    torch.set_num_threads(1)
    # All-reduce over gloo, which needs no compiler and does not spin. (`deepspeed.comm.torch` names torch itself.)
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
    sys.argv = ["worker", "--stage-dir", root, "--stage", stage, *(["--start", str(start)] if start else [])]
    sys.argv += ["--preflight"] if preflight else []
    fault.install(rank, Path(root))
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
