import math
from pathlib import Path

import pytest

from croc_cli.errors import RecipeError, UsageError
from croc_cli.launch.live import format_seconds
from croc_cli.report.run_data import read_run
from tests.report.runs import make_run


def test_a_run_has_its_stages_in_order_with_times_and_scores(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "nano"))
    assert list(run.stages) == ["align", "reconstruct", "finetune", "benchmarks"]
    assert run.seconds == 60 * 3 + 9
    assert run.mean_accuracy == 0.8
    assert run.recipe["name"] == "nano"
    assert run.notes == []
    assert run.stages["benchmarks"].croc_version == "1.0"


def test_an_unfinished_stage_says_how_far_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "nano", scenes=None)
    (folder / "finetune" / "summary.json").unlink()
    metrics = folder / "finetune" / "metrics.jsonl"
    whole = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(whole[:6]) + whole[6][:40])
    run = read_run(folder)
    assert "finetune is not finished: step 6 of 20" in run.notes
    assert any("cut off" in note for note in run.notes)


@pytest.mark.parametrize(
    ("file", "looks_like"),
    [
        ("trainer_state.json", "a run of the Hugging Face Trainer"),
        ("events.out.tfevents.123", "TensorBoard's events"),
        ("config.json", "a checkpoint"),
    ],
)
def test_a_folder_of_another_tool_is_named_for_what_it_looks_like(tmp_path: Path, file: str, looks_like: str) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(UsageError, match="holds no run of croc") as error:
        read_run(tmp_path)
    assert looks_like in error.value.message


def test_one_stage_given_in_place_of_the_run_points_to_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "nano")
    with pytest.raises(UsageError) as error:
        read_run(folder / "align")
    assert error.value.hint == f"this is one stage of a run; `croc report {folder}` shows the run"


def test_a_folder_of_runs_names_them(tmp_path: Path) -> None:
    make_run(tmp_path / "nano")
    with pytest.raises(UsageError) as error:
        read_run(tmp_path)
    assert error.value.hint is not None
    assert str(tmp_path / "nano") in error.value.hint


def test_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        read_run(tmp_path / "gone")


def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "nano")
    (folder / "finetune" / "recipe.yaml").write_text("a: [1\n")
    with pytest.raises(RecipeError, match=r"finetune/recipe\.yaml:2:1: not valid YAML"):
        read_run(folder)


def test_results_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "nano")
    (folder / "benchmarks" / "results.json").write_text('{"benchmarks": {"scenes": {"accuracy": ["no"')
    run = read_run(folder)
    assert run.mean_accuracy is None


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" + "0" * 400, "true", '"soon"'])
def test_a_time_that_is_no_finite_number_is_unknown(tmp_path: Path, value: str) -> None:
    folder = make_run(tmp_path / "nano", scenes=None)
    for stage in ("align", "reconstruct", "finetune"):
        (folder / stage / "launch.json").write_text(f'{{"wall_seconds": {value}}}')
        (folder / stage / "summary.json").write_text(f'{{"seconds": {value}}}')
    run = read_run(folder)
    assert math.isfinite(run.seconds)
    assert format_seconds(math.nan) == format_seconds(math.inf) == "?"
