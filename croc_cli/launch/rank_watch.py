"""Notices ranks that hang or die, from the files in which they say where they are; tells which one differs, and how."""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croc_cli.errors import RunError
from croc_cli.launch.process import ProcessIdentity
from croc_cli.run_dir import StageDir, read_json

LOOK_SECONDS = 0.5
GRACE_SECONDS = 10.0
"""How much longer than the ranks themselves the launch waits before it calls a silent rank hung."""
PROBE_BYTES = 16_384
"""More than a rank's file has."""
STACK_SECONDS = 2.0
"""How long a rank gets to write its stack once it is asked to."""
SHOWN_SAMPLES = 4
SHOWN_CALLS = 3


@dataclass(frozen=True)
class RankReport:
    """What one rank last said.

    Args:
        rank: Its number.
        state: "running", "hangs" as it found out itself, "silent" where its file stood still, "died", or "ended".
        step: Optimizer step, from 1; 0 before the first.
        micro_batch: Of the step, from 0; None outside of one.
        phase: Such as "forward" or "saving".
        module: Module whose forward pass began last.
        collective: Collective that it is in; None where it is in none.
        num_collectives: Collectives that it entered so far.
        changes: Positions that it passed so far.
        sample_ids: Samples of its micro-batch.
        stack: File with its stack.
    """

    rank: int
    state: str
    step: int
    micro_batch: int | None
    phase: str
    module: str | None
    collective: str | None
    num_collectives: int
    changes: int
    sample_ids: tuple[str, ...]
    stack: Path

    @property
    def place(self) -> tuple[object, ...]:
        """What ranks in step have in common."""
        return self.step, self.micro_batch, self.phase, self.module, self.collective, self.num_collectives

    def where(self) -> str:
        """Return its place in words."""
        parts = [f"step {self.step}" if self.step else "before the first step"]
        if self.micro_batch is not None:
            parts.append(f"micro-batch {self.micro_batch}")
        parts.append(f"{self.phase}{f' of {self.module}' if self.module else ''}")
        if self.collective:
            parts.append(f"waiting in {self.collective} (collective {self.num_collectives})")
        else:
            parts.append(f"in no collective ({self.num_collectives} behind it)")
        if self.sample_ids:
            more = len(self.sample_ids) - SHOWN_SAMPLES
            shown = ", ".join(self.sample_ids[:SHOWN_SAMPLES])
            parts.append(f"samples {shown}{f' and {more} more' if more > 0 else ''}")
        return ", ".join(parts)


def read_report(stage_dir: StageDir, rank: int, *, state: str | None = None) -> RankReport | None:
    """Return what a rank last said, or None where it has said nothing yet; `state` replaces its own."""
    record = read_json(stage_dir.rank_file(rank))
    if not record:
        return None
    return RankReport(
        rank=rank,
        state=state or str(record.get("state", "running")),
        step=int(record.get("step") or 0),
        micro_batch=record.get("micro_batch"),
        phase=str(record.get("phase", "")),
        module=record.get("module"),
        collective=record.get("collective"),
        num_collectives=int(record.get("num_collectives") or 0),
        changes=int(record.get("changes") or 0),
        sample_ids=tuple(map(str, record.get("sample_ids") or ())),
        stack=stage_dir.stack_file(rank),
    )


class RankWatch:
    """Looks at the ranks' files while a launch runs.

    Args:
        stage_dir: The stage's folder.
        num_ranks: Ranks of the launch.
        stall_timeout: Seconds without a change after which a rank hangs.
        clock: Seconds that only go forward; the ranks' own times are not used, as clocks differ and jump.

    `works` are the latest pieces of long work of rank 0, as `Position.working` notes them; `has_stepped` tells whether
    it has begun an optimizer step.
    """

    def __init__(
        self,
        stage_dir: StageDir,
        *,
        num_ranks: int,
        stall_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage_dir = stage_dir
        self.num_ranks = num_ranks
        self.stall_timeout = stall_timeout
        self.clock = clock
        self.died_first: int | None = None
        self.works: list[dict[str, Any]] = []
        self.has_stepped = False
        self._beats: dict[int, tuple[Any, float]] = {}
        self._next_look = 0.0

    def look(self, *, last: bool = False) -> None:
        """Look, twice a second at most, and note which rank was the first that was gone; `last` looks in any case.

        Raises:
            RunError: A rank has given no sign of life for longer than the timeout.
        """
        now = self.clock()
        if now < self._next_look and not last:
            return
        self._next_look = now + LOOK_SECONDS
        silent = []
        for rank in range(self.num_ranks):
            record = read_json(self.stage_dir.rank_file(rank))
            if rank == 0 and record:
                self.works, self.has_stepped = list(record.get("works") or ()), bool(record.get("step"))
            if not record or record.get("state") == "ended":
                continue
            beat, since = self._beats.get(rank, (None, now))
            if record.get("beat") != beat:
                self._beats[rank] = (record.get("beat"), now)
            elif now - since > self.stall_timeout + GRACE_SECONDS:
                if not self._can_be_written():  # a full disk silences ranks that work; those that hang end themselves
                    self._beats[rank] = (beat, now)
                    continue
                silent.append(rank)
            process = ProcessIdentity.from_json(record.get("process"))
            gone = process is not None and process.is_here() and not process.is_alive()
            if self.died_first is None and gone and record.get("state") != "hangs":
                self.died_first = rank
        if silent:
            self._ask_for_stacks()
            raise self.explain(silent=silent)

    def explain(self, *, silent: Sequence[int] = ()) -> RunError:
        """Return the error that says which rank hangs or died, and where the others were."""
        states = dict.fromkeys(silent, "silent")
        if self.died_first is not None:
            states.setdefault(self.died_first, "died")
        reports = [
            report
            for rank in range(self.num_ranks)
            if (report := read_report(self.stage_dir, rank, state=states.get(rank))) is not None
        ]
        return stall_error(reports, stage=self.stage_dir.name, stall_timeout=self.stall_timeout)

    def stalled(self) -> bool:
        """Tell whether a rank has ended as it found itself hanging, or died without an error message."""
        states = [read_json(self.stage_dir.rank_file(rank)).get("state") for rank in range(self.num_ranks)]
        return "hangs" in states

    def _can_be_written(self) -> bool:
        """Tell whether a rank could write its file now."""
        probe = self.stage_dir.ranks / ".probe"
        try:
            probe.write_text("x" * PROBE_BYTES, encoding="ascii")
            probe.unlink()
        except OSError:
            with suppress(OSError):
                probe.unlink()
            return False
        return True

    def _ask_for_stacks(self) -> None:
        """Make every rank of this machine write its stack; works on one that is stuck in native code, too."""
        for rank in range(self.num_ranks):
            process = ProcessIdentity.from_json(read_json(self.stage_dir.rank_file(rank)).get("process"))
            if process is not None and process.is_here() and process.is_alive():
                with suppress(OSError):
                    os.kill(process.pid, signal.SIGUSR2)
        time.sleep(STACK_SECONDS)


def find_odd_ranks(reports: Sequence[RankReport]) -> list[RankReport]:
    """Return the ranks that hold up the others: those that died or are silent, else those that are elsewhere.

    Where ranks differ, the ones that wait in the collective that most ranks wait in are held up; of two ranks alone,
    the one that is in no collective, or entered fewer, is the odd one.
    """
    gone = [report for report in reports if report.state in ("died", "silent")]
    if gone:
        return gone
    outside = [report for report in reports if report.collective is None]
    if outside and len(outside) < len(reports):
        return outside
    entered = Counter(report.num_collectives for report in reports)
    if len(entered) == 1:
        return []
    counts = entered.most_common()
    usual = max(entered) if counts[0][1] == counts[-1][1] else counts[0][0]
    return [report for report in reports if report.num_collectives != usual]


def stall_error(reports: Sequence[RankReport], *, stage: str, stall_timeout: float) -> RunError:
    """Return the error for ranks that hang; its lines name the rank that differs, its place and the others'."""
    odd = find_odd_ranks(reports)
    others = [report for report in reports if report not in odd]
    hangs = f"nothing has moved for {stall_timeout:.0f} s (launch.stall_timeout)"
    if not reports:
        return RunError(f"{stage}: {hangs}, and no rank has said where it is", hint="the logs may say more")
    if not odd:
        what = f"{stage}: {hangs}; every rank is at the same place: {reports[0].where()}"
    else:
        words = {"died": "died", "silent": "gives no sign of life"}
        names = "; ".join(f"rank {r.rank} {words.get(r.state, 'is held up')}: {r.where()}" for r in odd[:4])
        differing = differences(odd[0], others[0]) if others else ""
        what = f"{stage}: {hangs if odd[0].state != 'died' else 'a rank died'}; {names}"
        what += f"; {_others(others)}" if others else ""
        what += f" [{differing}]" if differing else ""
    calls = [call for report in (odd or reports)[:1] for call in innermost_calls(report.stack)]
    if calls:
        what += "; its innermost calls: " + " < ".join(calls)
    folder = reports[0].stack.parent
    return RunError(
        what,
        hint=f"positions and stacks of all ranks are in {folder}; the same command resumes from the last checkpoint",
    )


def differences(odd: RankReport, other: RankReport) -> str:
    """Return in what the place of one rank differs from another's, as `key: its value / the other's`."""
    keys = ("step", "micro_batch", "phase", "module", "collective", "num_collectives")
    pairs = [(key, getattr(odd, key), getattr(other, key)) for key in keys]
    return ", ".join(f"{key}: {ours} / {theirs}" for key, ours, theirs in pairs if ours != theirs)


def innermost_calls(stack: Path, count: int = SHOWN_CALLS) -> list[str]:
    """Return the innermost calls of the main thread in a stack file, as `file:line function`."""
    try:
        text = stack.read_text(encoding="utf-8")
    except OSError:
        return []
    main = text.strip().split("\n\n")[-1]  # faulthandler writes the main thread last
    calls = re.findall(r'^  File "(.*)", line (\d+) in (.*)$', main, flags=re.MULTILINE)
    return [f"{Path(file).name}:{line} {function}" for file, line, function in calls[:count]]


def _others(others: Sequence[RankReport]) -> str:
    places = Counter(report.where().partition(", samples")[0] for report in others)
    if len(places) == 1:
        which = f"rank {others[0].rank}" if len(others) == 1 else f"the other {len(others)}"
        return f"{which}: {next(iter(places))}"
    return "; ".join(f"{count} at {place}" for place, count in places.most_common(3))
