import json
from pathlib import Path

from croc_cli.report.terminal import accuracy_table, format_stage_end, format_table, health_lines, summarise
from croc_cli.run_dir import RunDir, write_json

SCORES = {
    "accuracy": {"colour": 0.91, "count": 0.8},
    "mean_accuracy": 0.855,
    "best_blind": {"colour": 0.3, "count": 0.5},
    "baselines": {"another_picture": {"colour": 0.25, "count": 0.4}},
    "caption_recall": 0.88,
    "num_questions": 1200,
}


def finished_run(folder: Path) -> RunDir:
    run = RunDir(folder)
    for name, seconds in (("align", 72.4), ("reconstruct", 101.0)):
        stage = run.stage(name)
        stage.root.mkdir(parents=True)
        stage.recipe_file.write_text("name: nano\n")
        write_json(stage.launch_file, {"wall_seconds": seconds})
        health = {"pool_used_share": 1.0, "explained_share": 0.31} if name == "reconstruct" else {}
        losses = {"loss": 3.0, "caption_loss": 0.5, "reconstruction_loss": 0.25 if health else None}
        write_json(stage.summary_file, {"finished": True, "steps": 250, "losses": losses, "health": health})
    return run


def test_stages_stand_in_a_table_with_their_times_and_the_total(tmp_path: Path) -> None:
    lines = summarise(finished_run(tmp_path).root).splitlines()
    assert lines[0].split() == ["stage", "steps", "time", "caption", "loss", "reconstruction", "health"]
    assert lines[2].split() == ["align", "250", "1:12", "0.500"]
    assert lines[3].split()[:5] == ["reconstruct", "250", "1:41", "0.500", "0.250"]
    assert lines[3].endswith("pool 100% used; explained share 0.31")
    assert lines[4].split() == ["total", "2:53"]


def test_what_a_stage_trains_is_said_in_the_order_in_which_an_image_passes_it(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    rates = {"token_pool": 0.0, "head": 0.0, "vision_tower": 0.0, "llm": 0.0, "projector": 0.0}  # of a first step
    stage = run.stage("reconstruct")
    stage.metrics_file.write_text(json.dumps({"step": 1, "learning_rate": rates, "loss": 3.0}) + "\n")
    assert "reconstruct trains: tower, projector, LLM, pool, head" in summarise(run.root).splitlines()
    assert "reconstruct: trained tower, projector, LLM, pool, head" in format_stage_end(stage, seconds=9.0).splitlines()
    stage.metrics_file.write_text('{"step": 1, "learning_rate": 7}\n')
    assert "trains:" not in summarise(run.root)


def test_accuracy_stands_beside_its_baselines() -> None:
    assert accuracy_table("scenes", SCORES).splitlines() == [
        "accuracy on scenes, 1,200 questions",
        "question type  accuracy  best blind  another picture",
        "─" * 52,
        "colour         91.0 %    30.0 %      25.0 %",
        "count          80.0 %    50.0 %      40.0 %",
        "mean           85.5 %    40.0 %      32.5 %",
        "objects named with their colour in detailed captions: 88.0 %",
    ]


def test_a_report_ends_with_the_answered_question(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    example = {"image": "scene.png", "question": "What colour is the circle?", "answer": "red", "expected": "red"}
    write_json(run.evaluation().results_file, {"benchmarks": {"scenes": {"parts": SCORES, "example": example}}})
    text = summarise(run.root)
    assert text.endswith(
        "one held-out picture\npicture  scene.png\nquestion What colour is the circle?\nanswer   red\nexpected red"
    )


def test_missing_figures_leave_gaps_not_errors(tmp_path: Path) -> None:
    assert summarise(tmp_path) == f"{tmp_path} holds no stage yet"
    assert "mean" in accuracy_table("scenes", {"accuracy": {"colour": None}})
    write_json(RunDir(tmp_path).evaluation().results_file, {"benchmarks": None})
    assert "holds no stage yet" in summarise(tmp_path)


def test_a_reconstruction_no_better_than_the_mean_is_said_loudly() -> None:
    assert "NO BETTER THAN PREDICTING THE MEAN VISUAL TOKEN" in health_lines({"health": {"explained_share": -0.02}})
    assert health_lines({"counts": {"bad_images": 3, "skipped_steps": 0}}) == ["3 images that did not open"]


def test_the_end_of_a_stage_names_time_losses_and_checkpoint(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    stage = run.stage("reconstruct")
    stage.checkpoint(250).mkdir(parents=True)
    assert format_stage_end(stage, seconds=101.0).splitlines() == [
        "reconstruct: 250 steps in 1:41 · loss 3.000 · caption loss 0.500 · reconstruction loss 0.250",
        "reconstruct: pool 100% used; explained share 0.31",
        f"reconstruct: checkpoint {stage.checkpoint(250)}",
    ]


def test_columns_without_content_are_left_out() -> None:
    assert format_table([["a", "b", "c"], ["1", "", "3"]]).splitlines() == ["a  c", "────", "1  3"]


def test_health_of_a_damaged_summary_is_left_out() -> None:
    health = {"explained_share": "x", "pool_used_share": [1], "pool_entropy": float("nan"), "assignment_share": 0.02}
    counts = {"bad_images": {}, "skipped_steps": 1}
    assert health_lines({"health": health, "counts": counts}) == [
        "waited for the assignment 2% of the time",
        "1 step skipped",
    ]
    assert health_lines({"health": "x", "counts": None}) == []
