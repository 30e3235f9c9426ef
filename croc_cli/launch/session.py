"""Starts a launch's command in a session of its own, and ends all that came of it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from croc_cli.launch.node_environment import FILE_NAME, environment_to_carry, without_secrets, write_environment
from croc_cli.launch.plan import LaunchPlan
from croc_cli.launch.process import processes, this_process
from croc_cli.names import PARENT_VARIABLE

LET_GO_SECONDS = 10.0
"""How long ranks on other nodes get to end, before the local processes are killed."""
_ROUNDS = 50
"""Looks at most for processes that are left: one that is killed may just have started another."""
_SESSION_FIELD = 3  # of /proc/PID/stat, counted from the state that follows the command's name

Process = subprocess.Popen[bytes]


def start(plan: LaunchPlan) -> Process:
    """Start the command in a session of its own, so that Ctrl-C reaches this process alone."""
    environment = os.environ | plan.environment | {PARENT_VARIABLE: _mark()}
    if plan.layout.kind == "hostfile":
        write_environment(plan.stage_dir.root / FILE_NAME, environment_to_carry(environment))
        environment = without_secrets(environment)
    with plan.stage_dir.launcher_log.open("ab") as log:
        return subprocess.Popen(
            plan.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(process: Process, plan: LaunchPlan) -> None:
    """End the process and all it started: at once on this machine, with a moment to reach other nodes."""
    if plan.layout.kind != "local":
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LET_GO_SECONDS)
    end_session(process)
    process.wait()


def end_session(process: Process) -> None:
    """Kill what is left of a command on this machine: its group, its session, and what carries its mark.

    A compiler that ninja started has a group of its own, and what calls setsid has a session of its own.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for _ in range(_ROUNDS):
        left = list(_left_of(process.pid, mark=f"{PARENT_VARIABLE}={_mark()}".encode()))
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.01)


def _mark() -> str:
    return json.dumps(this_process().as_json())


def _left_of(session: int, *, mark: bytes) -> Iterator[int]:
    for pid, fields in processes():
        if int(fields[_SESSION_FIELD]) == session or mark in _environment(pid):
            yield pid


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
