"""Tells one process from another that later got its number: by host, pid and the moment it was started."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from croc_cli.names import PARENT_VARIABLE

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_PID = 2**31 - 1
_START_FIELD = 19  # starttime of /proc/PID/stat, counted from the state that follows the command's name


@dataclass(frozen=True)
class ProcessIdentity:
    """One process of one machine.

    Args:
        host: Name of its machine.
        pid: Its number.
        started: When it was started, in ticks since a boot that is named too, so no clock can change it; empty where
            the system does not tell.
    """

    host: str
    pid: int
    started: str

    def is_here(self) -> bool:
        """Tell whether it is, or was, a process of this machine."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Tell whether it still runs; only right where `is_here` is."""
        if not self.started:
            return _exists(self.pid)
        return started_at(self.pid) == self.started

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> "ProcessIdentity | None":
        """Return what `as_json` gave, or None where it is something else."""
        if not isinstance(value, dict):
            return None
        host, pid, started = (value.get(key) for key in ("host", "pid", "started"))
        if not (isinstance(host, str) and isinstance(pid, int) and isinstance(started, str)):
            return None
        if isinstance(pid, bool) or not 0 < pid <= _MAX_PID:  # others mean a group of processes, or all
            return None
        return cls(host, pid, started)


def this_process() -> ProcessIdentity:
    """Return the identity of this process."""
    return ProcessIdentity(socket.gethostname(), os.getpid(), started_at(os.getpid()))


def parent_process(environment: Mapping[str, str] = os.environ) -> ProcessIdentity | None:
    """Return the process that launched this rank, as the environment names it; None where it names none."""
    try:
        return ProcessIdentity.from_json(json.loads(environment.get(PARENT_VARIABLE, "")))
    except (ValueError, RecursionError):
        return None


def started_at(pid: int) -> str:
    """Return when a process of this machine was started, or "" where it does not run or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else f"{_boot_id()}:{fields[_START_FIELD]}"


def processes() -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of /proc/PID/stat, from the state on, of every process that is not dead."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in ("Z", "X"):
            yield int(folder.name), fields


def descendants(pid: int) -> list[int]:
    """Return the processes of this machine that a process started, and those that these started."""
    children: dict[int, list[int]] = {}
    for one, fields in processes():
        children.setdefault(int(fields[1]), []).append(one)
    found = list(children.get(pid, ()))
    for one in found:  # grows while it is read
        found += children.get(one, ())
    return found


@lru_cache(maxsize=1)
def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()[:8]
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
