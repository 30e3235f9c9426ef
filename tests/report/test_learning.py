"""Figures of groups of samples."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from croc_cli.launch.live import SPEED, step_figures
from croc_cli.report.learning import MAX_GROUPS, learning_figures
from croc_cli.report.run_data import read_run
from croc_cli.report.run_list import run_state, runs_table
from croc_cli.report.terminal import best_of, health_lines
from croc_cli.report.watch import run_frame
from croc_cli.run_dir import RunDir, write_json
from tests.report.runs import make_run


def with_groups(folder: Path, **groups: dict[str, dict[str, float]]) -> Path:
    run = make_run(folder, stages=("align", "finetune"), scenes=None, steps=3)
    file = run / "finetune" / "metrics.jsonl"
    file.write_text("".join(json.dumps(json.loads(line) | groups) + "\n" for line in file.read_text().splitlines()))
    return run


def test_sources_are_drawn_the_largest_first_and_one_group_alone_is_not(tmp_path: Path) -> None:
    sources = {f"s/{number}": {"loss": float(number), "tokens": number, "samples": 1} for number in range(1, 11)}
    one = {"1": {"loss": 1.0, "tokens": 5, "samples": 1}}
    run = read_run(with_groups(tmp_path / "run", source=sources, modality={"image": one["1"]}, num_images=one))
    [figure] = learning_figures(run)
    assert figure.name == "finetune-loss-by-source"
    assert "8 with the most tokens of 10" in figure.note
    assert list(dict.fromkeys(row[1] for row in figure.rows[1:])) == [f"s/{10 - index}" for index in range(MAX_GROUPS)]


def test_a_run_of_an_older_croc_has_no_such_figures(tmp_path: Path) -> None:
    assert learning_figures(read_run(make_run(tmp_path / "run"))) == []


def test_benchmarks_on_the_way_have_a_figure_each_and_the_best_step_is_named(tmp_path: Path) -> None:
    answered = {"pope": {"score": 86.1, "questions": 200}, "mme": {"score": 1510.0}, "seconds": 3.0, "time_share": 0.1}
    folder = with_groups(tmp_path / "run", benchmark=answered)
    write_json(folder / "finetune" / "best.json", {"benchmark": "pope", "step": 2, "value": 86.1})
    figures = learning_figures(read_run(folder))
    assert [figure.name for figure in figures] == ["finetune-benchmark-pope", "finetune-benchmark-mme"]
    assert figures[0].title == "finetune: POPE on the way"
    assert figures[0].note == "Best: pope 86.1 after step 2; its checkpoint is kept."
    assert figures[1].note == ""


@pytest.mark.parametrize(
    "best", [{}, {"step": "x", "value": 1}, {"step": 1, "value": None}, {"step": [1], "value": {}}]
)
def test_a_damaged_best_step_is_no_best_step(best: dict[str, object], tmp_path: Path) -> None:
    stage = RunDir(tmp_path).stage("finetune")
    write_json(stage.best_file, best)
    assert best_of(stage) == {}
    assert health_lines({"best": best}) == []


def test_runs_watch_and_the_live_line_show_scores_and_the_best_step(tmp_path: Path) -> None:
    answered = {"pope": {"score": 86.1, "questions": 200}, "seconds": 3.0}
    folder = with_groups(tmp_path / "run", benchmark=answered)
    write_json(folder / "finetune" / "best.json", {"benchmark": "pope", "step": 2, "value": 86.1})
    state = run_state(folder)
    assert (state.scores, state.best["step"]) == ({"pope": 86.1}, 2)
    table = runs_table([state])
    assert "pope 86.1 after step 2" in table
    assert "best" not in runs_table([replace(state, best={})]).splitlines()[0]
    shown = run_frame(folder, width=80)
    assert "best: pope 86.1 after step 2" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert (SPEED, "pope 86.1") in step_figures({"benchmark": answered})


def test_the_held_out_loss_is_drawn_beside_that_of_the_training(tmp_path: Path) -> None:
    held = {"caption_loss": 1.5, "other_picture_caption_loss": 2.5, "picture_gain": 1.0, "samples": 8}
    run = read_run(with_groups(tmp_path / "run", held_out=held))
    [figure] = learning_figures(run)
    assert figure.name == "finetune-held-out-loss"
    assert list(dict.fromkeys(row[1] for row in figure.rows[1:])) == ["trained on", "held out", "other picture"]
