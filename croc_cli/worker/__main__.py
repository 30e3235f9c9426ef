"""One rank of a run: `python -m croc_cli.worker --stage-dir DIR --stage STAGE [--start CHECKPOINT]`."""

import argparse
import json
import os
import signal
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

from croc_cli.errors import EXIT_RUN_FAILED, CrocError, Interrupted, UsageError, handed_on
from croc_cli.launch.process import descendants
from croc_cli.names import STAGES
from croc_cli.output import guard_output
from croc_cli.redact import guard_streams, redact
from croc_cli.run_dir import StageDir
from croc_cli.words import shown

ROOM_BYTES = 64 * 1024
"""What a failure's message and traceback take at most, and the last lines of a log beside them."""


def parse_arguments() -> argparse.Namespace:
    """Return what the launch passed to this rank."""
    parser = argparse.ArgumentParser(prog="python -m croc_cli.worker", description=__doc__)
    parser.add_argument("--stage-dir", type=Path, required=True, help="folder with recipe.yaml and deepspeed.json")
    parser.add_argument("--stage", required=True, help="a training stage, or what else the launch asks for")
    parser.add_argument("--start", type=Path, default=None, help="checkpoint to start from")
    parser.add_argument("--show-progress", action="store_true", help="print lines while training, on rank 0")
    parser.add_argument("--preflight", action="store_true", help="take the longest samples and check as you go")
    return parser.parse_args()


def keep_room(stage_dir: StageDir) -> Path:
    """Take a little of the disk now, and return the file: when the disk is full, what went wrong takes its place."""
    room = stage_dir.failures / f".room-{os.environ.get('RANK', '0')}"
    with suppress(OSError):
        stage_dir.failures.mkdir(exist_ok=True)
        room.write_bytes(bytes(ROOM_BYTES))
    return room


def report_failure(stage_dir: StageDir, error: BaseException, *, room: Path) -> int:
    """Write what went wrong where the launching process looks for it, and return the exit code."""
    exit_code = error.exit_code if isinstance(error, CrocError) else EXIT_RUN_FAILED
    rank = int(os.environ.get("RANK", "0"))
    message, hint, whole = f"{type(error).__name__}: {error}", None, "".join(traceback.format_exception(error))
    if isinstance(error, CrocError):
        message, hint = handed_on(error.message)
        hint = error.hint or hint
    record = {
        "rank": rank,
        "message": message,
        "hint": hint,
        "exit_code": exit_code,
        "traceback": None if isinstance(error, CrocError) else whole,
        "uptime": time.monotonic(),  # of this machine; which rank failed first must not hang on a clock that jumps
    }
    with suppress(OSError):
        room.unlink(missing_ok=True)
    with suppress(OSError):  # a folder that is full, read-only or away must not hide the exit code
        stage_dir.failures.mkdir(exist_ok=True)
        stage_dir.failure_file(rank).write_text(redact(json.dumps(record, indent=1)), encoding="utf-8")
    if not isinstance(error, Interrupted):
        known = f"error: {message}" + (f"\nhint: {hint}" if hint else "")
        print(shown(known if isinstance(error, CrocError) else whole), file=sys.stderr, flush=True)
    return exit_code


def run_other(stage_dir: StageDir, job: str, *, start: Path | None) -> None:
    """Run a job that trains nothing; it shows how far it is, and ends when the process that launched it is gone."""
    from croc_cli.worker.watch import watch_this_rank

    watcher = watch_this_rank(stage_dir)
    if job == "prepare":
        from croc_cli.worker.prepare import run_preparation

        run_preparation(stage_dir)
    elif job == "benchmarks":
        from croc_cli.worker.benchmarks import run_benchmarks

        run_benchmarks(stage_dir, start=start)
    elif job == "figures":
        from croc_cli.worker.figures import run_figures

        run_figures(stage_dir, start=start)
    elif job == "attention":
        from croc_cli.worker.attention import run_attention

        run_attention(stage_dir)
    else:
        raise UsageError(f"--stage {job}: unknown job")
    watcher.stop()


def main() -> int:
    """Run the stage; every way to fail ends in a failure file and an exit code."""
    arguments = parse_arguments()
    stage_dir = StageDir(arguments.stage_dir)
    guard_output()
    guard_streams()
    room = keep_room(stage_dir)
    # torch tells DeepSpeed of renamed collectives at every call, which would bury what matters in the logs.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    try:
        if arguments.stage in STAGES:
            from croc_cli.worker.training import run_training

            run_training(
                stage_dir,
                arguments.stage,
                start=arguments.start,
                show_progress=arguments.show_progress,
                is_preflight=arguments.preflight,
            )
        else:
            run_other(stage_dir, arguments.stage, start=arguments.start)
    except BaseException as error:  # the process border: whatever it is, the parent must learn of it
        return report_failure(stage_dir, error, room=room)
    with suppress(OSError):
        room.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    for child in descendants(os.getpid()):  # loader processes, compilers
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    # A rank that failed must not wait in exit handlers for ranks that are stuck in a collective.
    os._exit(code)
