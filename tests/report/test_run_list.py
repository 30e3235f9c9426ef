import json
import os
from pathlib import Path

import pytest

from croc_cli.launch.process import ProcessIdentity, this_process
from croc_cli.report.prune import prunable
from croc_cli.report.run_list import age, list_runs, run_state, runs_table, size
from croc_cli.run_dir import RunDir, write_json
from tests.commands.croc import croc
from tests.report.runs import make_run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unfinished(path: Path, *, stage: str = "align") -> RunDir:
    """Make a run whose one stage is not finished."""
    run = RunDir(make_run(path, stages=(stage,), scenes=None))
    write_json(run.stage(stage).summary_file, {"finished": False})
    return run


def lock(run: RunDir, process: ProcessIdentity) -> None:
    write_json(run.lock_file, {"process": process.as_json(), "doing": "align"})


def test_states_are_told_from_the_files_alone() -> None:
    make_run(Path("runs/done"))
    unfinished(Path("runs/stopped"))
    lock(unfinished(Path("runs/running")), this_process())
    lock(unfinished(Path("runs/killed")), ProcessIdentity(os.uname().nodename, 2**22 + 1, "no:such"))
    failed = unfinished(Path("runs/failed"))
    write_json(failed.stage("align").failure_file(0), {"exit_code": 1})
    interrupted = unfinished(Path("runs/interrupted"))
    write_json(interrupted.stage("align").failure_file(0), {"exit_code": 130})
    fresh = unfinished(Path("runs/fresh"))
    fresh.stage("align").metrics_file.unlink()
    states = {Path(run.folder).name: run for run in list_runs(())}
    assert {name: run.state for name, run in states.items()} == {
        "done": "finished",
        "stopped": "stopped",
        "running": "running",
        "killed": "killed",
        "failed": "failed",
        "interrupted": "stopped",
        "fresh": "never started",
    }
    assert states["running"].where == f"{this_process().host}/{os.getpid()}"
    assert states["running"].command is None
    assert states["done"].command is None
    assert states["stopped"].command == "croc align runs/stopped/align/recipe.yaml --run-dir runs/stopped"


def test_a_run_of_another_machine_runs_while_its_lock_is_fresh() -> None:
    run = unfinished(Path("runs/far"))
    lock(run, ProcessIdentity("another-host", 7, "x"))
    assert run_state(run.root).state == "running"
    os.utime(run.lock_file, (1, 1))
    assert run_state(run.root).state == "killed"


def test_figures_are_those_of_the_last_steps() -> None:
    run = unfinished(Path("runs/a"))
    with run.stage("align").metrics_file.open("a") as file:
        file.write(json.dumps({"step": 21, "total_steps": 40, "loss": 1.0, "held_out": {"caption_loss": 0.25}}) + "\n")
        file.write('{"step": 22, "tot')
    state = run_state(run.root)
    assert (state.step, state.total_steps, state.held_out_loss) == (21, 40, 0.25)
    assert state.tokens_per_second == 3000.0
    assert state.size_bytes > 1000


def test_a_folder_that_is_half_written_is_a_run_without_figures() -> None:
    run = RunDir(Path("runs/broken"))
    stage = run.stage("align")
    stage.root.mkdir(parents=True)
    stage.recipe_file.write_text("{broken")
    stage.summary_file.write_text("{")
    stage.metrics_file.write_text("\x00\n[]\n")
    state = run_state(run.root)
    assert (state.recipe, state.step, state.loss, state.state) == ("", None, None, "stopped")


def test_the_table_fits_eighty_columns_and_json_has_everything() -> None:
    lock(unfinished(Path("runs/a-run-with-a-rather-long-name")), this_process())
    table = runs_table(list_runs(()), width=80)
    assert "align 20/20" in table
    assert "running" in table
    answer = croc("runs", "--format", "json")
    [entry] = json.loads(answer.out)
    assert {"folder", "stage", "state", "loss", "held_out_loss", "size_bytes", "command"} <= set(entry)


def test_the_command_that_resumes_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished(Path("runs/stopped"))
    answer = croc("runs")
    assert answer.code == 0
    assert "resume runs/stopped: `croc align runs/stopped/align/recipe.yaml --run-dir runs/stopped`" in answer.err
    dry = croc("align", "runs/stopped/align/recipe.yaml", "--run-dir", "runs/stopped", "--dry-run")
    assert dry.code == 0, dry.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 0, "no runs yet; `croc demo` makes one"),
        (("nosuch",), 2, "nosuch: no such folder"),
        (("--format", "yaml"), 2, "--format yaml: unknown format"),
    ],
)
def test_nothing_to_list_and_wrong_usage_are_one_line(arguments: tuple[str, ...], code: int, words: str) -> None:
    answer = croc("runs", *arguments)
    assert answer.code == code
    assert words in answer.err


def old_and_new(path: str) -> RunDir:
    run = RunDir(make_run(Path(path), stages=("align",)))
    for step in (10, 20):
        (run.stage("align").checkpoint(step) / "resume").mkdir(parents=True)
        (run.stage("align").checkpoint(step) / "resume/state.pt").write_bytes(bytes(1000))
        write_json(run.stage("align").checkpoint(step) / "croc.json", {"croc_version": "1", "weights_sha256": "a"})
    write_json(run.root / "align-20260101-120000/launch.json", {})
    return run


def test_prune_lists_what_may_go_and_asks() -> None:
    run = old_and_new("runs/a")
    answer = croc("runs", "prune")
    assert answer.code == 2
    assert "runs/a/align/checkpoints/step-00000010" in answer.out
    assert "older checkpoint" in answer.out
    assert "runs/a/align/checkpoints/step-00000020/resume" in answer.out
    assert "align-20260101-120000" in answer.out
    assert "--yes removes without asking" in answer.err
    assert run.stage("align").checkpoint(10).is_dir()
    assert croc("runs", "prune", "--yes").code == 0
    assert [path.name for path in run.stage("align").checkpoints.iterdir()] == ["step-00000020"]
    assert not (run.stage("align").checkpoint(20) / "resume").exists()
    assert "nothing may go" in croc("runs", "prune").err


def test_nothing_goes_of_a_run_that_runs_nor_what_a_stage_resumes_from() -> None:
    running = old_and_new("runs/running")
    lock(running, this_process())
    stopped = old_and_new("runs/stopped")
    write_json(stopped.stage("align").summary_file, {"finished": False})
    found = [str(one.path) for one in prunable(list_runs(()))]
    assert found == ["runs/stopped/align/checkpoints/step-00000010", "runs/stopped/align-20260101-120000"]


def test_prune_leaves_what_is_the_users_and_what_a_save_puts_back() -> None:
    run = old_and_new("runs/a")
    checkpoints = run.stage("align").checkpoints
    elsewhere = Path("photos")
    for folder in (
        checkpoints / "step-00000003",  # named like one, as the newest is
        checkpoints / "step-99999999",
        checkpoints / ".git",
        checkpoints / ".step-notes",
        run.root / "finetune-20260101-120000",
        elsewhere,
    ):
        folder.mkdir(parents=True)
        (folder / "photo.jpg").write_text("mine")
    (checkpoints / "step-00000005").symlink_to(elsewhere.resolve())
    (run.root / "reconstruct-20260101-120000").symlink_to(elsewhere.resolve())
    (checkpoints / "step-00000010" / "notes.txt").write_text("mine")
    (run.root / "align-20260101-120000" / "notes.txt").write_text("mine")
    old = checkpoints / ".step-00000015.old"
    write_json(old / "croc.json", {"croc_version": "1", "weights_sha256": "a"})
    assert [str(one.path) for one in prunable(list_runs(()))] == ["runs/a/align/checkpoints/step-00000020/resume"]
    before = {path for path in Path().rglob("*") if "resume" not in path.parts}
    assert croc("runs", "prune", "--yes").code == 0
    assert before == {path for path in Path().rglob("*") if "resume" not in path.parts}


def test_ages_and_sizes_are_short_to_read() -> None:
    assert [age(value) for value in (1, 90, 7200, 200_000)] == ["1 second", "1 minute", "2 hours", "2 days"]
    assert [size(value) for value in (12, 1500, 2_500_000, 3 * 10**9)] == ["12 B", "1.5 kB", "2.5 MB", "3.0 GB"]
