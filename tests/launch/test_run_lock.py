import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from croc_cli.errors import RunError, UsageError
from croc_cli.launch.process import ProcessIdentity, this_process
from croc_cli.launch.run_lock import RANKS_SECONDS, RunLock
from croc_cli.place import claim_run
from croc_cli.run_dir import RunDir, read_json, write_json

SLEEPER = "import sys, time; print('up', flush=True); time.sleep(600)"


class Clock:
    """A clock that moves when somebody sleeps, and calls back each time."""

    strftime = staticmethod(time.strftime)

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("croc_cli.launch.run_lock.time", clock)
    return clock


def lock(folder: Path, said: list[str] | None = None, **options: float) -> RunLock:
    said = [] if said is None else said
    return RunLock(RunDir(folder), doing="align", say=said.append, **options)


def another_process() -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def identity_of(process: "subprocess.Popen[bytes]") -> ProcessIdentity:
    from croc_cli.launch.process import started_at

    return ProcessIdentity(this_process().host, process.pid, started_at(process.pid))


def held_by(folder: Path, holder: ProcessIdentity) -> Path:
    file = RunDir(folder).lock_file
    write_json(file, {"process": holder.as_json(), "doing": "finetune", "since": "2026-01-01 00:00:00", "beat": 3})
    return file


def test_the_lock_names_its_holder_and_goes_when_the_run_ends(tmp_path: Path) -> None:
    with lock(tmp_path / "run") as held:
        record = read_json(held.file)
        assert record["process"] == this_process().as_json()
        assert record["doing"] == "align"
    assert not held.file.exists()


def test_a_second_run_is_refused_and_told_about_the_first(tmp_path: Path) -> None:
    process = another_process()
    try:
        file = held_by(tmp_path, identity_of(process))
        with pytest.raises(UsageError, match=f"is in use: finetune runs there .pid {process.pid} on ") as caught:
            lock(tmp_path).__enter__()
        assert "since 2026-01-01 00:00:00" in caught.value.message
        assert read_json(file)["doing"] == "finetune"
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    process = another_process()
    held_by(tmp_path, identity_of(process))
    process.kill()
    process.wait()
    said: list[str] = []
    with lock(tmp_path, said) as held:
        assert read_json(held.file)["process"] == this_process().as_json()
    assert said == [
        f"note: an earlier run (pid {process.pid} on {this_process().host}) ended without an error message; taking over"
    ]


def test_a_pid_that_was_given_to_another_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    own = this_process()
    held_by(tmp_path, ProcessIdentity(own.host, own.pid, "an earlier start"))
    with lock(tmp_path):
        pass


def test_half_a_lock_file_is_no_lock(tmp_path: Path) -> None:
    claim_run(RunDir(tmp_path))
    RunDir(tmp_path).lock_file.write_text('{"process": {"ho')
    with lock(tmp_path):
        pass


def test_a_run_on_another_machine_holds_the_folder_while_its_beat_goes_on(tmp_path: Path, clock: Clock) -> None:
    file = held_by(tmp_path, ProcessIdentity("elsewhere", 1, "x"))

    def beat() -> None:
        if clock.now > 15:
            write_json(file, json.loads(file.read_text()) | {"beat": 4})

    clock.on_sleep = beat
    with pytest.raises(UsageError, match="pid 1 on elsewhere"):
        lock(tmp_path, silence_seconds=20).__enter__()
    assert clock.now == 15.5


def test_a_run_on_another_machine_that_fell_silent_is_taken_over(tmp_path: Path, clock: Clock) -> None:
    held_by(tmp_path, ProcessIdentity("elsewhere", 1, "x"))
    with lock(tmp_path, silence_seconds=20) as held:
        assert clock.now == 20
        assert read_json(held.file)["process"]["host"] == this_process().host


def test_a_run_whose_folder_was_taken_over_ends(tmp_path: Path) -> None:
    with lock(tmp_path) as held:
        held._next_beat = 0.0
        held_by(tmp_path, ProcessIdentity("elsewhere", 1, "x"))
        with pytest.raises(RunError, match="was taken over by a run on elsewhere .pid 1."):
            held.refresh()
    assert held.file.exists()


def test_ranks_that_outlived_their_launch_are_waited_for(tmp_path: Path, clock: Clock) -> None:
    process = another_process()
    rank_file = RunDir(tmp_path).stage("align").rank_file(0)
    write_json(rank_file, {"process": identity_of(process).as_json()})
    said: list[str] = []
    with pytest.raises(UsageError, match=f"ranks of an earlier align still run in .*, such as pid {process.pid}"):
        lock(tmp_path, said).__enter__()
    assert clock.now > RANKS_SECONDS
    clock.on_sleep = lambda: (process.kill(), process.wait())
    with lock(tmp_path, said):
        assert process.returncode is not None
    assert "waiting for them to save" in said[-1]


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/run cannot be written: Not a directory"):
        lock(tmp_path / "file" / "run").__enter__()


def test_a_stage_that_runs_inside_of_a_pipeline_shares_its_lock(tmp_path: Path) -> None:
    with lock(tmp_path) as outer:
        with lock(tmp_path):
            pass
        assert outer.file.exists()
