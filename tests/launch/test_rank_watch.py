import os
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import RunError
from croc_cli.launch.process import ProcessIdentity, this_process
from croc_cli.launch.rank_watch import RankReport, RankWatch, find_odd_ranks, innermost_calls, stall_error
from croc_cli.run_dir import StageDir, write_json

STACK = """Thread 0x1 (most recent call first):
  File "/x/threading.py", line 5 in wait

Thread 0x2 (most recent call first):
  File "/x/loader.py", line 12 in read
  File "/x/trainer.py", line 99 in run
"""


def report(rank: int, **changes: Any) -> RankReport:
    fields: dict[str, Any] = {
        "state": "running",
        "step": 7,
        "micro_batch": 1,
        "phase": "backward",
        "module": "model.layers.3",
        "collective": "all_reduce",
        "num_collectives": 50,
        "changes": 900,
        "sample_ids": (f"a-{rank}",),
        "stack": Path("/nowhere/rank.stack.txt"),
    }
    return RankReport(rank=rank, **(fields | changes))


def write_rank(stage_dir: StageDir, rank: int, *, beat: int, **changes: Any) -> None:
    record = {"process": this_process().as_json(), "beat": beat, "state": "running", "phase": "forward", "step": 3}
    write_json(stage_dir.rank_file(rank), record | changes)


def test_the_rank_outside_of_the_collective_that_the_others_wait_in_is_the_odd_one() -> None:
    reports = [report(0), report(1), report(2, collective=None, num_collectives=49, phase="loading samples"), report(3)]
    assert [odd.rank for odd in find_odd_ranks(reports)] == [2]


def test_the_rank_that_entered_fewer_collectives_is_the_odd_one() -> None:
    reports = [report(0), report(1, collective="all_gather_into_tensor", num_collectives=48)]
    assert [odd.rank for odd in find_odd_ranks(reports)] == [1]


def test_ranks_at_the_same_place_have_no_odd_one_among_them() -> None:
    assert find_odd_ranks([report(0), report(1)]) == []
    error = stall_error([report(0), report(1)], stage="align", stall_timeout=60)
    assert "every rank is at the same place: step 7, micro-batch 1, backward" in error.message


def test_the_error_says_which_rank_differs_how_and_where_the_others_are(tmp_path: Path) -> None:
    stack = tmp_path / "rank-1.stack.txt"
    stack.write_text(STACK)
    odd = report(1, collective=None, num_collectives=49, phase="loading samples", module=None, stack=stack)
    error = stall_error([report(0), odd, report(2)], stage="align", stall_timeout=60)
    assert error.message == (
        "align: nothing has moved for 60 s (launch.stall_timeout); rank 1 is held up: step 7, micro-batch 1, loading "
        "samples, in no collective (49 behind it), samples a-1; the other 2: step 7, micro-batch 1, backward of "
        "model.layers.3, waiting in all_reduce (collective 50) [phase: loading samples / backward, "
        "module: None / model.layers.3, collective: None / all_reduce, num_collectives: 49 / 50]; "
        "its innermost calls: loader.py:12 read < trainer.py:99 run"
    )
    assert error.exit_code == 1
    assert "the same command resumes from the last checkpoint" in (error.hint or "")


def test_the_innermost_calls_are_those_of_the_main_thread(tmp_path: Path) -> None:
    (tmp_path / "stack.txt").write_text(STACK)
    assert innermost_calls(tmp_path / "stack.txt", 1) == ["loader.py:12 read"]
    assert innermost_calls(tmp_path / "nothing.txt") == []


def test_a_rank_whose_beat_stands_still_is_found_by_this_clock_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    stage_dir = StageDir(tmp_path / "align")
    signalled: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _number: signalled.append(pid))
    monkeypatch.setattr("croc_cli.launch.rank_watch.STACK_SECONDS", 0.0)
    watch = RankWatch(stage_dir, num_ranks=2, stall_timeout=60, clock=lambda: now[0])
    for second in range(0, 60, 5):
        now[0] = second
        write_rank(stage_dir, 0, beat=second)
        write_rank(stage_dir, 1, beat=4, sample_ids=["slow"])
        watch.look()
    now[0] = 71
    write_rank(stage_dir, 0, beat=71)
    with pytest.raises(RunError, match="rank 1 gives no sign of life: step 3, .* samples slow; rank 0: step 3"):
        watch.look()
    assert signalled == [os.getpid()] * 2


def test_ranks_that_ended_of_themselves_are_not_missed(tmp_path: Path) -> None:
    now = [0.0]
    stage_dir = StageDir(tmp_path / "align")
    write_rank(stage_dir, 0, beat=1, state="ended")
    watch = RankWatch(stage_dir, num_ranks=1, stall_timeout=1, clock=lambda: now[0])
    watch.look()
    now[0] = 1000.0
    watch.look()
    assert watch.died_first is None


def test_the_first_rank_whose_process_is_gone_is_remembered(tmp_path: Path) -> None:
    stage_dir = StageDir(tmp_path / "align")
    gone = ProcessIdentity(this_process().host, os.getpid(), "another boot:1").as_json()
    write_rank(stage_dir, 0, beat=1)
    write_rank(stage_dir, 1, beat=1, process=gone)
    watch = RankWatch(stage_dir, num_ranks=2, stall_timeout=60)
    watch.look()
    assert watch.died_first == 1
