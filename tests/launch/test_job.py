import io
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import Interrupted, RunError
from croc_cli.launch.job import launch, run_job, write_launch_files
from croc_cli.launch.live import PlainLines
from croc_cli.launch.plan import LaunchPlan
from croc_cli.place import claim_run
from croc_cli.run_dir import RunDir, StageDir, read_json, write_json
from tests.launch.make import ONE_RANK, fake_plan


def launched(plan: LaunchPlan, monkeypatch: pytest.MonkeyPatch, behaviour: str) -> str:
    """Launch a plan with the fake worker and return what was shown."""
    monkeypatch.setenv("FAKE_WORKER", behaviour)
    shown = io.StringIO()
    write_launch_files(plan, recipe_yaml="name: nano\n", fingerprint="abc")
    try:
        launch(plan, progress=PlainLines(plan.stage, shown))
    except Exception as error:
        error.shown = shown.getvalue()  # type: ignore[attr-defined]
        raise
    return shown.getvalue()


def press_ctrl_c(stage_dir: StageDir, *, times: int) -> None:
    """Send SIGINT to this process, first when a step was made and again when the first was noticed."""

    def press() -> None:
        deadline = time.monotonic() + 60
        while not stage_dir.metrics_file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        if times > 1:
            while not stage_dir.stop_file.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


def test_a_run_that_finishes_shows_steps_and_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fake_plan(tmp_path)
    shown = launched(plan, monkeypatch, "finish")
    assert "align step 3/3 · caption loss 0.667" in shown
    assert "warning: a picture did not open" in shown
    assert "prints to its log" not in shown
    assert "prints to its log" in plan.stage_dir.launcher_log.read_text()
    assert read_json(plan.stage_dir.launch_file)["wall_seconds"] > 0


def test_files_of_the_last_launch_are_taken_out_before_the_next(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path)
    stage = plan.stage_dir
    claim_run(RunDir(tmp_path))
    write_json(stage.failure_file(0), {"message": "old"})
    stage.stop_file.touch()
    write_launch_files(plan, recipe_yaml="name: nano\n", fingerprint="abc")
    assert not stage.stop_file.exists()
    assert not stage.failure_file(0).exists()
    assert stage.recipe_file.read_text() == (tmp_path / "recipe.yaml").read_text() == "name: nano\n"
    assert read_json(stage.launch_file)["fingerprint"] == "abc"
    assert read_json(stage.deepspeed_file)["train_batch_size"] == 64


def test_a_failing_rank_is_shown_by_its_message_and_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="^align failed on rank 0: ValueError: it broke") as caught:
        launched(fake_plan(tmp_path), monkeypatch, "fail")
    assert "a line of the log" in caught.value.shown  # type: ignore[attr-defined]
    assert "logs: " in caught.value.shown  # type: ignore[attr-defined]
    assert caught.value.exit_code == 1


def test_a_worker_killed_by_the_system_is_told_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="align was killed by signal 9") as caught:
        launched(fake_plan(tmp_path), monkeypatch, "killed")
    assert "memory ran out" in (caught.value.hint or "")


def test_a_worker_without_a_word_is_explained_from_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="exit code 1") as caught:
        launched(fake_plan(tmp_path), monkeypatch, "silent")
    assert "the disk is full" in (caught.value.hint or "")


def test_the_first_ctrl_c_saves_and_ends_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fake_plan(tmp_path)
    press_ctrl_c(plan.stage_dir, times=1)
    with pytest.raises(Interrupted, match="saved in .*step-") as caught:
        launched(plan, monkeypatch, "endless")
    assert caught.value.exit_code == 130
    assert "Ctrl-C again stops at once" in caught.value.shown  # type: ignore[attr-defined]


def test_a_second_ctrl_c_ends_a_worker_that_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fake_plan(tmp_path)
    deaf = [sys.executable, "-c", DEAF, str(plan.stage_dir.metrics_file), str(tmp_path / "pids")]
    plan = with_command(plan, deaf)
    press_ctrl_c(plan.stage_dir, times=2)
    with pytest.raises(Interrupted, match="stopped at once"):
        launched(plan, monkeypatch, "finish")
    for pid in (tmp_path / "pids").read_text().split():
        wait_until_dead(int(pid))


DEAF = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[2], "w").write(f"{os.getpid()} {child.pid}")
open(sys.argv[1], "w").write('{"step": 1, "total_steps": 2}' + chr(10))
time.sleep(600)
"""


def with_command(plan: LaunchPlan, command: list[str]) -> LaunchPlan:
    fields: dict[str, Any] = {**plan.__dict__, "command": tuple(command)}
    return LaunchPlan(**fields)


def wait_until_dead(pid: int, *, seconds: float = 20.0) -> None:
    """Fail unless a process ends soon: one that was killed takes a moment on a busy machine."""
    deadline = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_ctrl_c_before_the_first_step_stops_at_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a folder nor a process: a compiler has a group of its own, and another process a session."""
    monkeypatch.setenv("FAKE_WORKER", "compiling")
    run_dir = RunDir(tmp_path / "run")
    plan = fake_plan(run_dir.root)
    pids, pressed = tmp_path / "pids", []

    def press() -> None:
        deadline = time.monotonic() + 60
        while not (pids.exists() and pids.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(Interrupted, match="align was stopped before its first step"):
        run_job(plan, recipe_yaml="name: nano\n", progress=PlainLines("align", io.StringIO()))
    assert time.monotonic() - pressed[0] < 30  # not the minutes that ranks have to save
    for pid in pids.read_text().split():
        wait_until_dead(int(pid), seconds=30)
    assert not plan.stage_dir.root.exists()
    assert not run_dir.recipe_file.exists()


def test_a_port_that_was_taken_meanwhile_is_chosen_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fake_plan(tmp_path / "run")
    monkeypatch.setenv("FAKE_WORKER", "port")
    shown = io.StringIO()
    run_job(plan, recipe_yaml="name: nano\n", progress=PlainLines("align", shown))
    assert "port 29123 was taken" in shown.getvalue()
    other = fake_plan(tmp_path / "run", through_launcher=True).with_port(4567)
    assert "--master_port=4567" in other.command
    assert "29123" not in " ".join(other.command)


def test_a_port_of_the_users_own_is_not_chosen_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(fake_plan(tmp_path / "run"), port_is_chosen=False)
    monkeypatch.setenv("FAKE_WORKER", "port")
    with pytest.raises(RunError) as caught:
        run_job(plan, recipe_yaml="name: nano\n", progress=PlainLines("align", io.StringIO()))
    assert "launch.master_port" in (caught.value.hint or "")


def test_long_work_before_the_first_step_is_shown_and_told_when_it_is_done() -> None:
    shown = io.StringIO()
    lines = PlainLines("align", shown)
    work = {"number": 1, "doing": "fetching x", "did": "fetched x", "done": 5, "total": 10, "unit": "bytes"}
    lines.works([{**work, "seconds": None}])
    assert shown.getvalue() == ""
    lines._works.measure.started -= 3
    lines.works([{**work, "seconds": None}])
    lines.works([{**work, "done": 10, "seconds": 61.0, "ended": True}])
    assert shown.getvalue().splitlines()[0].startswith("align: fetching x, 5 B of 10 B")
    assert shown.getvalue().splitlines()[1] == "align: fetched x (10 B) in 1:01"


def test_the_real_launcher_starts_every_rank_with_its_own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = type(ONE_RANK)("cpu", (2,), ("0", "1"), 1)
    plan = fake_plan(tmp_path, through_launcher=True, layout=layout)
    with pytest.raises(RunError, match="failed on rank 0: ValueError: it broke") as caught:
        launched(plan, monkeypatch, "fail")
    assert "rank 0 prints to its log" in caught.value.shown  # type: ignore[attr-defined]
    assert {log.name[-9:] for log in plan.stage_dir.logs.glob("*_rank?.log")} == {"rank0.log", "rank1.log"}


def test_a_terminal_that_is_closed_saves_and_ends_as_a_hangup_does(tmp_path: Path) -> None:
    import pty

    master, slave = pty.openpty()
    code = (
        "import sys; from pathlib import Path; from tests.launch.make import fake_plan\n"
        "from croc_cli.errors import Interrupted\n"
        "from croc_cli.launch.job import run_job\n"
        "from croc_cli.output import guard_output\n"
        "guard_output()\n"
        f"plan = fake_plan(Path({str(tmp_path / 'run')!r}))\n"
        "try:\n    run_job(plan, recipe_yaml='a: 1')\n"
        "except Interrupted as error:\n    sys.exit(130 if 'saved in' in error.message else 1)\n"
    )
    environment = os.environ | {"TERM": "xterm", "FAKE_WORKER": "endless"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave, stdout=slave, env=environment)
    os.close(slave)
    metrics = StageDir(tmp_path / "run" / "align").metrics_file
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.close(master)
    assert process.wait(60) == 130
    assert StageDir(tmp_path / "run" / "align").latest_checkpoint() is not None
    assert "cannot be written" in StageDir(tmp_path / "run" / "align").events_file.read_text()


def test_a_terminal_gets_a_live_line(tmp_path: Path) -> None:
    """Through a pseudo-terminal, as a user sees it."""
    import pty

    master, slave = pty.openpty()
    code = (
        "import sys; from pathlib import Path; from tests.launch.make import fake_plan\n"
        "from croc_cli.launch.job import launch, write_launch_files\n"
        f"plan = fake_plan(Path({str(tmp_path)!r})); write_launch_files(plan, recipe_yaml='a: 1', fingerprint='a')\n"
        "launch(plan)"
    )
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave, stdout=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            block = os.read(master, 4096)
        except OSError:
            break
        if not block:
            break
        shown += block
    assert process.wait() == 0, shown.decode()
    text = shown.decode()
    assert "step 3/3" in text
    assert "━" in text
