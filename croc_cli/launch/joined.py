"""Joins a launch that was already made: torchrun or srun started `croc` once per rank and set RANK and WORLD_SIZE."""

import hashlib
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

from croc_cli.errors import RunError
from croc_cli.launch.job import write_launch_files
from croc_cli.launch.layout import number_of
from croc_cli.launch.plan import LaunchPlan, worker_arguments
from croc_cli.launch.run_lock import RunLock
from croc_cli.launch.stage_state import move_aside
from croc_cli.names import HOLDS_LOCK_VARIABLE
from croc_cli.redact import redact
from croc_cli.run_dir import RunDir, read_json, write_json
from croc_cli.words import shown

WAIT_SECONDS = 120.0
"""How long a rank waits for rank 0's files; a shared file system may show them late."""
_IDENTITY = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
)
"""Variables that are the same on every rank of one launch, and differ from launch to launch."""


def is_joined(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this process is one rank of a launch."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def launch_identity(environment: Mapping[str, str] = os.environ) -> str:
    """Return what the ranks of one launch have in common."""
    text = "\n".join(f"{name}={environment.get(name, '')}" for name in _IDENTITY)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def join_launch(plan: LaunchPlan, *, recipe_yaml: str, fingerprint: str, fresh: bool) -> NoReturn:
    """Become the worker of this rank; rank 0 writes the stage folder's files first.

    Raises:
        RunError: Rank 0's files did not appear.
        UsageError: Another run holds the run folder.
    """
    identity = launch_identity()
    if number_of(os.environ, "RANK", least=0) == 0:
        # The worker that this process becomes has the same pid, so the lock stays its own; it gives it back.
        RunLock(RunDir(plan.stage_dir.root.parent), doing=plan.stage, say=_say).__enter__()
        os.environ[HOLDS_LOCK_VARIABLE] = "1"
        if fresh:
            move_aside(plan.stage_dir)
        plan.stage_dir.launch_file.unlink(missing_ok=True)
        write_launch_files(plan, recipe_yaml=recipe_yaml, fingerprint=fingerprint)
        record = read_json(plan.stage_dir.launch_file)
        write_json(plan.stage_dir.launch_file, record | {"joined": identity})
    else:
        wait_for_files(plan, identity)
    os.environ.update({name: value for name, value in plan.environment.items() if name not in os.environ})
    arguments = worker_arguments(plan.stage_dir, plan.stage, plan.start)
    os.execv(sys.executable, [sys.executable, "-u", "-m", "croc_cli.worker", *arguments, "--show-progress"])


def _say(message: str) -> None:
    print(shown(redact(message)), file=sys.stderr, flush=True)


def wait_for_files(plan: LaunchPlan, identity: str, *, seconds: float = WAIT_SECONDS) -> None:
    """Wait until rank 0 of this very launch has written the stage folder's files.

    Raises:
        RunError: It did not within the time.
    """
    deadline = time.monotonic() + seconds
    while read_json(plan.stage_dir.launch_file).get("joined") != identity:
        if time.monotonic() > deadline:
            raise RunError(
                f"rank {os.environ['RANK']} waited {seconds:.0f} s for rank 0 to write {plan.stage_dir.launch_file}",
                hint="the run folder must lie on a disk that all nodes share",
            )
        time.sleep(0.2)


def slurm_rendezvous(environment: Mapping[str, str]) -> dict[str, str]:
    """Return RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of a rank that srun started.

    Args:
        environment: Of the rank; SLURM_PROCID and its like are set.
    """
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "localhost")
    job = number_of(environment, "SLURM_JOB_ID", least=0, most=10**9 - 1)
    return {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(nodes),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(20_000 + job % 20_000),
    }


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: `gpu-[003-005,9],cpu1` → `gpu-003`."""
    match = re.match(r"([^,\[]+)(?:\[([^\]]+)\]([^,]*))?", nodes)
    if match is None:
        return "localhost"
    prefix, numbers, suffix = match.groups()
    return prefix if numbers is None else prefix + re.split(r"[-,]", numbers)[0] + (suffix or "")
