"""The thread that watches a rank of any job from inside: see `croc_cli.train.position`."""

import os

from croc_cli.launch.live import PlainLines
from croc_cli.launch.process import parent_process
from croc_cli.launch.run_lock import RunLock
from croc_cli.names import HOLDS_LOCK_VARIABLE
from croc_cli.output import LOSS
from croc_cli.run_dir import RunDir, StageDir
from croc_cli.train.position import POSITION, PositionWriter
from croc_cli.words import shown


def watch_this_rank(
    stage_dir: StageDir, *, stall_timeout: float = float("inf"), lines: PlainLines | None = None
) -> PositionWriter:
    """Let a thread write where this rank is from now on, and end it where it hangs, or where its launch is gone.

    Args:
        stage_dir: The job's folder.
        stall_timeout: Seconds for which nothing may move on any rank.
        lines: Where long work is shown, where no parent does.
    """
    POSITION.watch_collectives()
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    lock = None
    if os.environ.get(HOLDS_LOCK_VARIABLE) and rank == 0:
        lock = RunLock(RunDir(stage_dir.root.parent), doing=stage_dir.name, say=_say)

    def each_time() -> None:
        if lines is not None:
            lines.works(POSITION.works)
        LOSS.tell(stage_dir.events_file)
        if lock is not None:
            lock.refresh()

    watcher = PositionWriter(
        stage_dir,
        rank=rank,
        stall_timeout=stall_timeout,
        parent=parent_process(),
        each_time=each_time,
        at_end=(lambda: None) if lock is None else lock.release,
    )
    watcher.start()
    return watcher


def _say(text: str) -> None:
    print(shown(text), flush=True)
