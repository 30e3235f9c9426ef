"""Watches a launch until it ends: shows how far it is, and passes on the wish to stop."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from croc_cli.launch.live import Progress
from croc_cli.launch.plan import LaunchPlan
from croc_cli.launch.rank_watch import RankWatch
from croc_cli.launch.run_lock import RunLock
from croc_cli.launch.session import Process, kill
from croc_cli.launch.tail import JsonLinesTail
from croc_cli.output import LOSS

POLL_SECONDS = 0.2


class StopRequests:
    """Counts Ctrl-C and its like while a launch runs."""

    def __init__(self) -> None:
        self.count = 0
        self.stopped_early = False

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


def watch(
    process: Process,
    plan: LaunchPlan,
    *,
    requests: StopRequests,
    tails: tuple[JsonLinesTail, JsonLinesTail],
    progress: Progress,
    ranks: RankWatch,
    lock: RunLock | None,
) -> None:
    """Show what the ranks report until the process ends; the first stop request asks them to, the second ends it.

    Before its first step a stage has nothing to save, so there the first request ends it.

    Raises:
        RunError: A rank gives no sign of life any more, or another run has taken the folder over.
    """
    metrics, events = tails
    asked = has_stepped = False
    while True:
        ended = process.poll() is not None
        ranks.look(last=ended)
        if lock is not None:
            lock.refresh()
        progress.works(ranks.works)
        for event in events.read():
            progress.message(format_event(event))
        for row in metrics.read():
            has_stepped = True
            progress.metrics(row)
        progress.tick()
        LOSS.look()
        LOSS.tell(plan.stage_dir.events_file)
        if ended:
            return
        if LOSS.is_hangup:
            requests.count = max(requests.count, 1)
        if requests.count and not asked:
            asked = True
            if plan.is_rehearsal or not (has_stepped or ranks.has_stepped):
                requests.stopped_early = True
                kill(process, plan)
                return
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


def format_event(event: dict[str, Any]) -> str:
    """Return an event as one line: `warning: … (hint)`."""
    level = "" if event.get("level", "info") == "info" else f"{event['level']}: "
    hint = f" ({event['hint']})" if event.get("hint") else ""
    return f"{level}{event.get('message', '')}{hint}"
