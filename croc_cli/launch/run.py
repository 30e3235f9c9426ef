"""Starts a plan, watches it, passes signals on, and says how it ended."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from croc_cli.errors import EXIT_INTERRUPTED, Interrupted, RunError
from croc_cli.launch.failure import explain_failure
from croc_cli.launch.live import Progress, open_progress
from croc_cli.launch.plan import LaunchPlan
from croc_cli.launch.process import this_process
from croc_cli.launch.rank_watch import RankWatch
from croc_cli.launch.run_lock import RunLock
from croc_cli.launch.tail import JsonLinesTail
from croc_cli.names import PARENT_VARIABLE
from croc_cli.place import claim_run
from croc_cli.run_dir import RunDir, read_json, write_json, write_whole

POLL_SECONDS = 0.2
LET_GO_SECONDS = 10.0
"""How long ranks on other nodes get to end after a second Ctrl-C, before the local processes are killed."""


def find_free_port() -> int:
    """Return a TCP port that is free on this machine now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_launch_files(plan: LaunchPlan, *, recipe_yaml: str, fingerprint: str) -> None:
    """Write into the stage folder what the worker reads, and take out what the last launch left for its parent."""
    stage_dir = plan.stage_dir
    claim_run(RunDir(stage_dir.root.parent))
    stage_dir.logs.mkdir(parents=True, exist_ok=True)
    for stale in (stage_dir.stop_file, *stage_dir.failures.glob("rank-*.json"), *stage_dir.ranks.glob("rank-*")):
        stale.unlink(missing_ok=True)
    write_whole(stage_dir.recipe_file, recipe_yaml)
    write_whole(RunDir(stage_dir.root.parent).recipe_file, recipe_yaml)
    if plan.deepspeed is not None:
        write_json(stage_dir.deepspeed_file, plan.deepspeed)
    # A stage that goes on keeps the time of its earlier launches.
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


class StopRequests:
    """Counts Ctrl-C and its like while a launch runs."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Count a signal."""
        self.count += 1

    @contextmanager
    def installed(self) -> Iterator["StopRequests"]:
        """Catch SIGINT, SIGTERM and SIGHUP; one that is ignored, as under nohup, stays ignored."""
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, self)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def launch(plan: LaunchPlan, *, progress: Progress | None = None, lock: RunLock | None = None) -> float:
    """Start a plan whose files are written, show how far it is, and wait for its end.

    Args:
        plan: The plan.
        progress: Where figures go; left out: stderr.
        lock: The run folder's lock, which is kept fresh while the launch runs.

    Returns:
        Seconds that it took.

    Raises:
        Interrupted: It was asked to stop, and did.
        UsageError, RunError: It failed.
    """
    stage_dir = plan.stage_dir
    started = time.monotonic()
    shown = open_progress(plan.stage) if progress is None else progress
    tails = (JsonLinesTail(stage_dir.metrics_file), JsonLinesTail(stage_dir.events_file))
    ranks = RankWatch(stage_dir, num_ranks=plan.layout.num_ranks, stall_timeout=plan.stall_timeout)
    with StopRequests().installed() as requests, shown:
        process = start(plan)
        try:
            watch(process, plan, requests=requests, tails=tails, progress=shown, ranks=ranks, lock=lock)
        finally:
            if process.poll() is None:
                kill(process, plan)
            signal_group(process, signal.SIGKILL)  # ranks that outlived a launcher that was killed
            with suppress(OSError):
                record_seconds(plan, time.monotonic() - started)
    code = process.returncode
    if code == 0 and stage_dir.finished():
        return time.monotonic() - started
    if requests.count > 1:
        raise Interrupted(f"{plan.stage} was stopped at once", hint="the same command goes on from the last checkpoint")
    if code == EXIT_INTERRUPTED:
        latest = stage_dir.latest_checkpoint()
        kept = f"saved in {latest}" if latest else "nothing was trained yet"
        raise Interrupted(f"{plan.stage} was interrupted; {kept}", hint="the same command goes on from there")
    if not stage_dir.exists():
        raise RunError(
            f"{plan.stage} ended with exit code {code}, and its folder {stage_dir.root} is gone",
            hint="if its file system went away, bring it back; the same command then goes on from the last checkpoint",
        )
    failure = explain_failure(stage_dir, exit_code=code, ranks=ranks)
    for line in failure.lines:
        shown.message(f"  {line}")
    if failure.log is not None:
        shown.message(f"logs: {failure.log}")
    raise failure.error


def record_seconds(plan: LaunchPlan, seconds: float) -> None:
    """Add the time of this launch to that of the stage."""
    if record := read_json(plan.stage_dir.launch_file):  # none where the folder's file system has gone
        total = float(record.get("wall_seconds") or 0.0) + seconds
        write_json(plan.stage_dir.launch_file, record | {"wall_seconds": total})


def start(plan: LaunchPlan) -> "subprocess.Popen[bytes]":
    """Start the command in a session of its own, so that Ctrl-C reaches this process alone."""
    with plan.stage_dir.launcher_log.open("ab") as log:
        return subprocess.Popen(
            plan.command,
            env=os.environ | plan.environment | {PARENT_VARIABLE: json.dumps(this_process().as_json())},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def watch(
    process: "subprocess.Popen[bytes]",
    plan: LaunchPlan,
    *,
    requests: StopRequests,
    tails: tuple[JsonLinesTail, JsonLinesTail],
    progress: Progress,
    ranks: RankWatch,
    lock: RunLock | None,
) -> None:
    """Show what the ranks report until the process ends; the first stop request asks them to, the second ends it.

    Raises:
        RunError: A rank gives no sign of life any more, or another run has taken the folder over.
    """
    metrics, events = tails
    asked = False
    while True:
        ranks.look()
        if lock is not None:
            lock.refresh()
        ended = process.poll() is not None
        for event in events.read():
            progress.message(format_event(event))
        for row in metrics.read():
            progress.metrics(row)
        progress.tick()
        if ended:
            return
        if requests.count and not asked:
            asked = True
            ask_to_stop(plan.stage_dir.stop_file)
            progress.message("stopping after this step and saving; Ctrl-C again stops at once")
        if requests.count > 1:
            kill(process, plan)
            return
        time.sleep(POLL_SECONDS)


def ask_to_stop(stop_file: Path) -> None:
    """Ask the ranks to save and end."""
    stop_file.parent.mkdir(parents=True, exist_ok=True)
    stop_file.touch()


def kill(process: "subprocess.Popen[bytes]", plan: LaunchPlan) -> None:
    """End the process and all it started: at once on this machine, with a moment to reach other nodes."""
    if plan.layout.kind != "local":
        signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LET_GO_SECONDS)
    signal_group(process, signal.SIGKILL)
    process.wait()


def signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to the process and all of its session."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def format_event(event: dict[str, Any]) -> str:
    """Return an event as one line: `warning: … (hint)`."""
    level = "" if event.get("level", "info") == "info" else f"{event['level']}: "
    hint = f" ({event['hint']})" if event.get("hint") else ""
    return f"{level}{event.get('message', '')}{hint}"
