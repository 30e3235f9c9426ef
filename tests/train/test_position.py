import time
from pathlib import Path
from typing import Any

import pytest

from croc_cli.run_dir import StageDir, read_json, write_json
from croc_cli.train.position import Position, PositionWriter


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


def test_a_process_that_computes_is_told_from_one_that_sleeps(tmp_path: Path) -> None:
    writer = writer_of(StageDir(tmp_path), Position())
    end = time.process_time() + 0.2
    while time.process_time() < end:
        sum(range(1000))
    writer._activity = (time.monotonic() - 1.0, *writer._activity[1:])  # as if it had taken a second, on a busy machine
    assert writer._was_busy()
    time.sleep(0.3)
    assert not writer._was_busy()


@pytest.mark.parametrize("busy", [True, False])
def test_work_that_cannot_say_how_far_it_is_moves_while_the_process_is_busy(tmp_path: Path, busy: bool) -> None:
    position, codes = Position(), list[int]()
    writer = writer_of(StageDir(tmp_path), position, stall_timeout=0.2, end=codes.append)
    writer._was_busy = lambda: busy  # type: ignore[method-assign]
    writer.start()
    with position.working("loading", "loaded", opaque=True):
        time.sleep(0.8)
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
        writer = writer_of(StageDir(tmp_path / str(step)), position, parent=Gone(), end=codes.append)  # type: ignore[arg-type]
        writer.start()
        time.sleep(0.2)
        writer.stop()
        assert writer.parent_is_gone
        assert bool(codes) is expected
    assert read_json(StageDir(tmp_path / "3").rank_file(0))["state"] == "ended"
