from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import Interrupted
from croc_cli.launch import prepare as room
from croc_cli.launch.job import StoppedEarly
from croc_cli.launch.ops import SHARED_MEMORY
from croc_cli.launch.plan import WORKER, LaunchPlan
from croc_cli.launch.prepare import assembled_of, growing_folder, is_assembled, prepare
from croc_cli.run_dir import RunDir, write_json
from tests.launch.make import fake_plan, recipe


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was launched, in place of launching it."""
    made: list[dict[str, Any]] = []

    def run_job(plan: LaunchPlan, **given: Any) -> float:
        made.append({"plan": plan, **given["task"]})
        return 0.0

    monkeypatch.setattr(room, "run_job", run_job)
    monkeypatch.setattr(room, "missing_ops", lambda names: names)
    return made


def real_plan(folder: Path) -> LaunchPlan:
    plan = fake_plan(folder)
    return replace(plan, command=(*plan.command, WORKER))


def test_operators_and_model_are_made_by_one_process_before_the_launch(
    tmp_path: Path, jobs: list[dict[str, Any]]
) -> None:
    prepare(recipe(), real_plan(tmp_path), lock=None)
    [job] = jobs
    assert (job["ops"], job["init"], job["stage"]) == ([SHARED_MEMORY], str(tmp_path / "init"), "align")
    assert job["plan"].layout.num_ranks == 1
    assert job["plan"].stall_timeout >= 1800


def test_what_is_there_is_not_made_again(
    tmp_path: Path, jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "missing_ops", lambda _names: ())
    write_json(tmp_path / "init" / "croc.json", {"made_from": assembled_of(recipe(), "align")})
    assert is_assembled(recipe(), "align", tmp_path / "init")
    prepare(recipe(), real_plan(tmp_path), lock=None)
    prepare(recipe(), replace(real_plan(tmp_path), start=tmp_path / "checkpoint"), lock=None)
    assert jobs == []
    other = recipe(align__seed=7)
    prepare(other, real_plan(tmp_path), lock=None)
    assert [job["init"] for job in jobs] == [str(tmp_path / "init")]


def test_ctrl_c_leaves_nothing_half_made(
    tmp_path: Path, jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path)

    def interrupted(*_: object, **__: object) -> float:
        (run_dir.stage("prepare").root / "logs").mkdir(parents=True)
        growing_folder(run_dir.init).mkdir()
        raise StoppedEarly("prepare was stopped")

    monkeypatch.setattr(room, "run_job", interrupted)
    with pytest.raises(Interrupted, match="align was stopped before its first step; nothing was written"):
        prepare(recipe(), real_plan(tmp_path), lock=None)
    assert list(tmp_path.iterdir()) == []
