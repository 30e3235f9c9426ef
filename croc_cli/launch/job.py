"""The one way to launch a job: its files, its folder's lock, the start, the watch, and how it ended.

Stages, rehearsals, benchmarks, figures, attention and what is prepared before a stage are jobs.
"""

import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from croc_cli.errors import EXIT_INTERRUPTED, Interrupted, RunError
from croc_cli.launch.failure import explain_failure, port_was_taken
from croc_cli.launch.live import Progress, open_progress
from croc_cli.launch.node_environment import FILE_NAME
from croc_cli.launch.plan import LaunchPlan
from croc_cli.launch.rank_watch import RankWatch
from croc_cli.launch.run_lock import RunLock
from croc_cli.launch.session import end_session, kill, start
from croc_cli.launch.tail import JsonLinesTail
from croc_cli.launch.watch import StopRequests, watch
from croc_cli.names import STAGES
from croc_cli.place import claim_run
from croc_cli.run_dir import RunDir, read_json, write_json, write_whole

PORT_TRIES = 3
"""Launches at most until one binds its port: another program may take a port that was free when it was chosen."""
TASK_FILE = "task.json"
_SHARED_MEMORY = Path("/dev/shm")


def find_free_port() -> int:
    """Return a TCP port that is free on this machine now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_job(
    plan: LaunchPlan,
    *,
    recipe_yaml: str,
    fingerprint: str = "",
    task: Mapping[str, Any] | None = None,
    lock: RunLock | None = None,
    progress: Progress | None = None,
) -> float:
    """Launch a plan and wait for its end.

    Args:
        plan: The plan.
        recipe_yaml: The resolved recipe, which the worker reads.
        fingerprint: Of the settings that decide a stage's outcome.
        task: What the worker is to do, beside what the recipe says.
        lock: The run folder's lock, which is kept fresh; None takes it, or that of the job's own folder where it is no
            stage.
        progress: Where figures go; default: stderr.

    Returns:
        Seconds that it took.

    Raises:
        Interrupted: It was asked to stop, and did.
        UsageError: Another job runs in the folder, or the worker found a mistake of the user's.
        RunError: It failed, or its folder cannot be written.
    """
    shown = open_progress(plan.stage) if progress is None else progress
    of_run = plan.stage in STAGES
    folder = RunDir(plan.stage_dir.root.parent if of_run else plan.stage_dir.root)
    own = nullcontext(lock) if lock else RunLock(folder, doing=plan.stage, say=shown.message, claims=of_run)
    with own as held:
        was_there = plan.stage_dir.exists()
        old_recipe = _run_recipe(plan)
        try:
            write_launch_files(plan, recipe_yaml=recipe_yaml, fingerprint=fingerprint, task=task)
        except OSError as error:
            raise RunError(
                f"{plan.stage_dir.root} cannot be written: {error.strerror or error}",
                hint="nothing was started; free some space, or --run-dir DIR puts the run elsewhere",
            ) from error
        try:
            return launch(plan, progress=shown, lock=held)
        except StoppedEarly:
            if not was_there and plan.stage in STAGES:
                shutil.rmtree(plan.stage_dir.root, ignore_errors=True)  # made a moment ago, by this process
                _restore_run_recipe(plan, old_recipe)
            raise


class StoppedEarly(Interrupted):
    """A job was asked to stop before its first step, when there was nothing to save."""


def write_launch_files(
    plan: LaunchPlan, *, recipe_yaml: str, fingerprint: str, task: Mapping[str, Any] | None = None
) -> None:
    """Write into the job's folder what the worker reads, and take out what the last launch left for its parent."""
    stage_dir = plan.stage_dir
    if plan.stage in STAGES:
        claim_run(RunDir(stage_dir.root.parent))
    stage_dir.logs.mkdir(parents=True, exist_ok=True)
    for stale in (stage_dir.stop_file, *stage_dir.failures.glob("rank-*.json"), *stage_dir.ranks.glob("rank-*")):
        stale.unlink(missing_ok=True)
    write_whole(stage_dir.recipe_file, recipe_yaml)
    if plan.stage in STAGES:
        write_whole(RunDir(stage_dir.root.parent).recipe_file, recipe_yaml)
        if stage_dir.finished():  # its recipe wants more steps of it now
            write_json(stage_dir.summary_file, read_json(stage_dir.summary_file) | {"finished": False})
    else:
        stage_dir.summary_file.unlink(missing_ok=True)
    if plan.deepspeed is not None:
        write_json(stage_dir.deepspeed_file, plan.deepspeed)
    if task is not None:
        write_json(stage_dir.root / TASK_FILE, dict(task))
    # A stage that is resumed keeps the time of its earlier launches.
    earlier = read_json(stage_dir.launch_file).get("wall_seconds") if stage_dir.latest_checkpoint() else None
    launch: dict[str, Any] = {
        "stage": plan.stage,
        "start": str(plan.start) if plan.start else None,
        "num_ranks": plan.layout.num_ranks,
        "command": list(plan.command),
        "env": plan.environment,
        "fingerprint": fingerprint,
        "earlier_logs": sorted(log.name for log in stage_dir.logs.glob("*_rank*.log")),
        "time": time.time(),
        "wall_seconds": earlier or 0.0,
    }
    write_json(stage_dir.launch_file, launch)


def launch(plan: LaunchPlan, *, progress: Progress | None = None, lock: RunLock | None = None) -> float:
    """Start a plan whose files are written, show how far it is, and wait for its end.

    Args:
        plan: The plan.
        progress: Where figures go; default: stderr.
        lock: The folder's lock, which is kept fresh while the launch runs.

    Returns:
        Seconds that it took.

    Raises:
        Interrupted: It was asked to stop, and did.
        UsageError, RunError: It failed.
    """
    started = time.monotonic()
    shown = open_progress(plan.stage) if progress is None else progress
    with StopRequests().installed() as requests, shown:
        for tries_left in reversed(range(PORT_TRIES)):
            code, ranks = _launch_once(plan, requests=requests, progress=shown, lock=lock)
            taken = code != 0 and plan.port_is_chosen and port_was_taken(plan.stage_dir)
            if not taken or not tries_left or requests.count:
                break
            shown.message(f"port {plan.master_port} was taken by another program before the ranks had it; another one")
            plan = _over_another_port(plan)
    if code == 0 and plan.stage_dir.finished():
        return time.monotonic() - started
    raise _ending(plan, code, requests=requests, ranks=ranks, shown=shown)


def _launch_once(
    plan: LaunchPlan, *, requests: StopRequests, progress: Progress, lock: RunLock | None
) -> tuple[int, RankWatch]:
    """Start the command, watch it to its end, and return its exit code and what watched the ranks."""
    stage_dir = plan.stage_dir
    started = time.monotonic()
    tails = (JsonLinesTail(stage_dir.metrics_file), JsonLinesTail(stage_dir.events_file))
    ranks = RankWatch(stage_dir, num_ranks=plan.layout.num_ranks, stall_timeout=plan.stall_timeout)
    process = start(plan)
    try:
        watch(process, plan, requests=requests, tails=tails, progress=progress, ranks=ranks, lock=lock)
    finally:
        if process.poll() is None:
            kill(process, plan)
        end_session(process)  # ranks that outlived a launcher that was killed, and what they started
        with suppress(OSError):  # it may hold secrets
            (stage_dir.root / FILE_NAME).unlink(missing_ok=True)
        for left in _SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_*_{plan.master_port}_*"):
            with suppress(OSError):
                left.unlink()
        with suppress(OSError):
            _record_seconds(plan, time.monotonic() - started)
    return process.returncode, ranks


def _over_another_port(plan: LaunchPlan) -> LaunchPlan:
    """Return the plan over another port, its files ready for another launch."""
    plan = plan.with_port(find_free_port())
    for stale in (*plan.stage_dir.failures.glob("rank-*.json"), *plan.stage_dir.ranks.glob("rank-*")):
        stale.unlink(missing_ok=True)
    earlier = sorted(log.name for log in plan.stage_dir.logs.glob("*_rank*.log"))
    record = {"command": list(plan.command), "env": plan.environment, "earlier_logs": earlier}
    write_json(plan.stage_dir.launch_file, read_json(plan.stage_dir.launch_file) | record)
    return plan


def _ending(
    plan: LaunchPlan, code: int, *, requests: StopRequests, ranks: RankWatch, shown: Progress
) -> Interrupted | RunError | Exception:
    """Return the error that says how a launch ended that did not finish; what its logs say is shown."""
    stage_dir, latest = plan.stage_dir, plan.stage_dir.latest_checkpoint()
    again = "the same command resumes from the last checkpoint" if latest else "the same command starts it again"
    if requests.stopped_early:
        kept = f"; {latest} stays as it is" if latest else ""
        return StoppedEarly(f"{plan.stage} was stopped before its first step{kept}", hint=again)
    if requests.count > 1:
        return Interrupted(f"{plan.stage} was stopped at once", hint=again)
    if code == EXIT_INTERRUPTED:
        kept = f"saved in {latest}" if latest else "nothing was trained yet"
        return Interrupted(f"{plan.stage} was interrupted; {kept}", hint=again)
    if not stage_dir.exists():
        return RunError(
            f"{plan.stage} ended with exit code {code}, and its folder {stage_dir.root} is gone",
            hint="if its file system went away, bring it back; the same command then resumes from the last checkpoint",
        )
    failure = explain_failure(stage_dir, exit_code=code, ranks=ranks)
    for line in failure.lines:
        shown.message(f"  {line}")
    if failure.log is not None:
        shown.message(f"logs: {failure.log}")
    return failure.error


def _record_seconds(plan: LaunchPlan, seconds: float) -> None:
    """Add the time of this launch to that of the stage."""
    if record := read_json(plan.stage_dir.launch_file):  # none where the folder's file system has gone
        total = float(record.get("wall_seconds") or 0.0) + seconds
        write_json(plan.stage_dir.launch_file, record | {"wall_seconds": total})


def _run_recipe(plan: LaunchPlan) -> str | None:
    file = RunDir(plan.stage_dir.root.parent).recipe_file
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return None


def _restore_run_recipe(plan: LaunchPlan, text: str | None) -> None:
    file = RunDir(plan.stage_dir.root.parent).recipe_file
    with suppress(OSError):
        if text is None:
            file.unlink(missing_ok=True)
        else:
            write_whole(file, text)
