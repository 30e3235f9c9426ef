import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from croc_cli.run_dir import StageDir, read_json, write_json
from croc_cli.train.position import Position, PositionWriter, _activity


class Rounds:
    """Counts the rounds of a writer, and tells when so many have begun."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self.most = most
        self.over = threading.Event()

    def __call__(self) -> None:
        self.count += 1
        if self.count >= self.most:
            self.over.set()


def writer_of(stage_dir: StageDir, position: Position, *, stall_timeout: float = 60.0, **more: Any) -> PositionWriter:
    stage_dir.ranks.mkdir(parents=True, exist_ok=True)
    return PositionWriter(stage_dir, rank=0, stall_timeout=stall_timeout, position=position, **more)


def test_work_tells_what_it_does_how_far_it_is_and_how_it_ended() -> None:
    position = Position()
    with position.working("fetching x", "fetched x", total=10, unit="bytes") as moved:
        before = position.changes
        moved(4)
        assert position.changes > before
        [work] = position.as_json()["works"]
        assert (work["doing"], work["done"], work["total"], work["seconds"]) == ("fetching x", 4, 10, None)
    [work] = position.as_json()["works"]
    assert (work["did"], work["ended"]) == ("fetched x", True)
    with pytest.raises(ValueError, match="broken"), position.working("a", "b"):
        raise ValueError("broken")
    assert "ended" not in position.as_json()["works"][-1]


def test_a_measure_is_asked_for_how_much_is_done_and_moves_the_position() -> None:
    position, sizes = Position(), iter([5, 5, 7])
    with position.working("fetching x", "fetched x", unit="bytes", measure=lambda: next(sizes)):
        position.ask()
        changes = position.changes
        position.ask()
        assert position.changes == changes
    assert position.works[-1]["done"] == 7


def test_inner_work_gives_the_outer_its_place_back() -> None:
    position = Position()
    with position.working("outer", "outer", opaque=True):
        with position.working("inner", "inner"):
            assert not position.computes_alone()
        assert position.computes_alone()
        with position.waiting("barrier"):
            assert not position.computes_alone()
    assert not position.computes_alone()


def test_a_process_that_computes_or_reads_is_told_from_one_that_sleeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([(0.0, 0.0, 0), (1.0, 0.5, 0), (2.0, 0.5, 0), (3.0, 0.5, 10**9), (4.0, 0.501, 10**9)])
    monkeypatch.setattr("croc_cli.train.position._activity", lambda: next(looks))
    writer = writer_of(StageDir(tmp_path), Position())
    assert [writer._was_busy() for _ in range(4)] == [True, False, True, False]


def test_activity_counts_what_this_process_computes_and_reads(tmp_path: Path) -> None:
    before = _activity()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        sum(range(1000))
    (tmp_path / "file").write_bytes(bytes(10**6))
    _, computed, moved = (now - then for now, then in zip(_activity(), before, strict=True))
    assert computed > 0.05
    assert moved >= 10**6 or not Path("/proc/self/io").exists()


@pytest.mark.parametrize("busy", [True, False])
def test_work_that_cannot_say_how_far_it_is_moves_while_the_process_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    rounds, codes, seen = Rounds(10), list[int](), threading.Event()
    # A second passes each round, and a rank hangs after two and a half.
    clock = SimpleNamespace(monotonic=lambda: float(rounds.count), sleep=lambda _seconds: None)
    monkeypatch.setattr("croc_cli.train.position.time", clock)
    monkeypatch.setattr("croc_cli.train.position.WRITE_SECONDS", 0.01)

    def end(code: int) -> None:
        codes.append(code)
        seen.set()

    position = Position()
    writer = writer_of(StageDir(tmp_path), position, stall_timeout=2.5, end=end, each_time=rounds)
    writer._was_busy = lambda: busy  # type: ignore[method-assign]
    with position.working("loading", "loaded", opaque=True):
        writer.start()
        assert (rounds.over if busy else seen).wait(60)
    writer.stop()
    assert bool(codes) is not busy


def test_a_rank_does_not_hang_while_another_moves(tmp_path: Path) -> None:
    stage_dir, writer = StageDir(tmp_path / "align"), None
    writer = writer_of(stage_dir, Position())
    other = {"state": "running", "beat": 1, "process": {"pid": 7}, "seconds_unchanged": 5.0}
    write_json(stage_dir.rank_file(1), other)
    assert writer._another_moves()
    assert not writer._another_moves(), "its beat stands still: it was killed"
    write_json(stage_dir.rank_file(1), {**other, "beat": 2, "seconds_unchanged": 61.0})
    assert not writer._another_moves()
    write_json(stage_dir.rank_file(1), {**other, "beat": 3, "state": "hangs"})
    assert not writer._another_moves()


def test_before_the_first_step_a_rank_ends_at_once_when_its_launch_is_gone(tmp_path: Path) -> None:
    class Gone:
        def is_here(self) -> bool:
            return True

        def is_alive(self) -> bool:
            return False

    for step, expected in ((0, True), (3, False)):
        position, codes = Position(), []
        position.step = step
        rounds = Rounds(2)  # the second begins when the first has looked at the parent
        more: dict[str, Any] = {"parent": Gone(), "end": codes.append, "each_time": rounds}
        writer = writer_of(StageDir(tmp_path / str(step)), position, **more)
        writer.start()
        assert rounds.over.wait(60)
        writer.stop()
        assert writer.parent_is_gone
        assert bool(codes) is expected
    assert read_json(StageDir(tmp_path / "3").rank_file(0))["state"] == "ended"
