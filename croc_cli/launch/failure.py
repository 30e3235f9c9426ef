"""Why a launch failed: the first failing rank's own words, or what the logs show."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croc_cli.errors import EXIT_RUN_FAILED, EXIT_USAGE, CrocError, RunError, UsageError
from croc_cli.launch.less_memory import memory_hint
from croc_cli.launch.rank_watch import RankWatch, read_report
from croc_cli.run_dir import StageDir, read_json

LOG_LINES = 15
NO_SPACE_BYTES = 64 * 1024
"""Free bytes below which a disk counts as full: a message and a log's last lines would not fit."""
_TAIL_BYTES = 64 * 1024

KNOWN_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"DefaultCPUAllocator: .*allocate memory|Cannot allocate memory|\bMemoryError\b",
        "this machine's memory was too small: lower STAGE.batch.micro_size or data.num_workers",
    ),
    (
        r"No space left on device",
        "the disk is full: free some space; the same command resumes from the last save",
    ),
    (
        r"address already in use|EADDRINUSE",
        "the port is taken by another run: --set launch.master_port=PORT picks another",
    ),
    (r"bus error|shared memory.*shm|/dev/shm", "/dev/shm is too small for loader processes: --set data.num_workers=0"),
    (
        r"ninja: build stopped|Error building extension|Ninja is required|g\+\+: (not found|command not found)",
        "DeepSpeed could not compile an operator; `croc doctor` shows whether g++ and ninja are there",
    ),
    (
        r"NCCL (error|WARN)|ncclSystemError|ncclUnhandled",
        "the GPUs could not reach each other: NCCL_DEBUG=INFO shows why",
    ),
    (
        r"Connect(ion)? (timed out|refused)|connect\(\) timed out",
        "a rank could not reach rank 0: check host names and firewalls",
    ),
    (r"No module named", "a Python package is missing: `croc doctor` lists them"),
)
"""What logs say, as a regular expression, and what helps; STAGE stands for the stage's name."""


_NO_GPU_MEMORY = r"CUDA out of memory|OutOfMemoryError"
_TAKEN_PORT = re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE)
_LOST_PEER = re.compile(r"Connection (closed|reset) by peer|Broken pipe|remote process exited|NCCL", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """What is shown of a failed launch.

    Args:
        error: Message, hint and exit code.
        log: The log of the rank that failed first; None where nothing was written.
        lines: Its last lines; empty where the message says it all.
    """

    error: CrocError
    log: Path | None
    lines: tuple[str, ...]


def explain_failure(stage_dir: StageDir, *, exit_code: int, ranks: RankWatch | None = None) -> Failure:
    """Find out why a launch ended without being finished.

    Args:
        stage_dir: Its folder.
        exit_code: Of the launcher; may be 0, as the launcher loses the code of a rank that a signal killed.
        ranks: What watched the ranks.
    """
    record = first_failure(stage_dir)
    if ranks is not None and ranks.stalled():
        return Failure(ranks.explain(), newest_log(stage_dir), ())
    if record is not None:
        rank = int(record.get("rank", 0))
        log = rank_log(stage_dir, rank) or stage_dir.launcher_log
        code = int(record.get("exit_code") or EXIT_RUN_FAILED)
        text = str(record.get("message", "no message"))
        kind = UsageError if code == EXIT_USAGE else RunError
        is_told = code == EXIT_USAGE or record.get("traceback", "") is None
        lines = () if is_told else last_lines(log)
        hint = record.get("hint") or hint_from(text + "\n" + "\n".join(lines), stage_dir) or f"the whole log is {log}"
        message = text if code == EXIT_USAGE else f"{stage_dir.name} failed on rank {rank}: {in_one_line(text)}"
        if ranks is not None and ranks.died_first not in (None, rank) and _LOST_PEER.search(text):
            gone = read_report(stage_dir, ranks.died_first)
            message = f"{stage_dir.name}: rank {ranks.died_first} exited without an error message"
            message += f", at {gone.where()}" if gone else ""
            hint = f"it was killed, or memory ran out (see `dmesg`); its log is {rank_log(stage_dir, ranks.died_first)}"
        return Failure(kind(message, hint=str(hint)), log, lines)
    newest = newest_log(stage_dir)
    lines = last_lines(newest) if newest else ()
    killed = signal_of(exit_code)
    cause = (
        f"was killed by signal {killed}" if killed else f"ended with exit code {exit_code} and without an error message"
    )
    hint = hint_from("\n".join(lines), stage_dir)
    trouble = folder_trouble(stage_dir.root)
    if trouble and not killed:
        cause, hint = (
            f"ended with exit code {exit_code}: {trouble}",
            "fix that; the same command resumes from the last save",
        )
    if hint is None and killed == 9:
        hint = (
            f"most likely memory ran out: lower {stage_dir.name}.batch.micro_size or data.num_workers, and see `dmesg`"
        )
    gone = read_report(stage_dir, ranks.died_first) if ranks is not None and ranks.died_first is not None else None
    if gone is not None:
        cause += f"; rank {gone.rank} was gone first, at {gone.where()}"
    error = RunError(f"{stage_dir.name} {cause}", hint=hint or f"the logs are in {stage_dir.logs}")
    return Failure(error, newest, lines)


def port_was_taken(stage_dir: StageDir) -> bool:
    """Tell whether a rank could not bind the port over which the ranks find each other."""
    records = (read_json(file) for file in stage_dir.failures.glob("rank-*.json"))
    return any(_TAKEN_PORT.search(str(record.get("message", ""))) for record in records)


def first_failure(stage_dir: StageDir) -> dict[str, Any] | None:
    """Return the record of the rank that died first; the others mostly died of its death, and say so.

    Machines are not told apart by their clocks, which jump: ranks that lost a peer come after those that did not, and
    among these the uptime of a machine orders its own.
    """
    records = [record for file in sorted(stage_dir.failures.glob("rank-*.json")) if (record := read_json(file))]

    def order(record: dict[str, Any]) -> tuple[bool, float]:
        return bool(_LOST_PEER.search(str(record.get("message", "")))), float(record.get("uptime") or 0.0)

    return min(records, key=order) if records else None


def folder_trouble(folder: Path) -> str | None:
    """Return why ranks could not write a word into their folder: its file system is read-only or full; else None."""
    try:
        state = os.statvfs(folder)
    except OSError as error:
        return f"{folder} cannot be reached ({error.strerror})"
    if state.f_flag & os.ST_RDONLY:
        return f"{folder} is on a file system that is read-only now"
    if state.f_bavail * state.f_frsize < NO_SPACE_BYTES:
        return f"the disk of {folder} is full"
    return None


def in_one_line(message: str) -> str:
    """Return a message without the traceback that a loader process puts into it: what was raised there is last."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if len(lines) > 1 and any("Traceback (most recent call last)" in line for line in lines):
        return lines[-1]
    return message.strip()


def rank_log(stage_dir: StageDir, rank: int) -> Path | None:
    """Return the newest log of a rank: one of this launch, whatever the time in its name says."""
    earlier = set(read_json(stage_dir.launch_file).get("earlier_logs") or ())
    logs = sorted(stage_dir.logs.glob(f"*_rank{rank}.log"))
    logs = [log for log in logs if log.name not in earlier] or logs
    return logs[-1] if logs else None


def newest_log(stage_dir: StageDir) -> Path | None:
    """Return the log that was written to last and is not empty."""
    logs = [log for log in stage_dir.logs.glob("*.log") if log.stat().st_size]
    return max(logs, key=lambda log: log.stat().st_mtime) if logs else None


def last_lines(file: Path, count: int = LOG_LINES) -> tuple[str, ...]:
    """Return the last lines of a log, progress bars' carriage returns resolved; none where it cannot be read."""
    try:
        with file.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return tuple([line for line in lines if line][-count:])


def hint_from(text: str, stage_dir: StageDir) -> str | None:
    """Return what helps against a cause that is known by its words."""
    if re.search(_NO_GPU_MEMORY, text, flags=re.IGNORECASE):
        return memory_hint(stage_dir.name, stage_dir.recipe_file)
    for pattern, hint in KNOWN_CAUSES:
        if re.search(pattern, text, flags=re.IGNORECASE):
            return hint.replace("STAGE", stage_dir.name)
    return None


def signal_of(exit_code: int) -> int | None:
    """Return the signal behind an exit code: -9 as Python reports it, 137 as a shell does, 247 as -9 cut to a byte."""
    if exit_code < 0:
        return -exit_code
    if exit_code > 256 - 32:
        return 256 - exit_code
    return exit_code - 128 if 128 < exit_code < 128 + 32 and exit_code != 130 else None
