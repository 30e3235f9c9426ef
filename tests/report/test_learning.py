"""Figures of groups of samples."""

import json
from pathlib import Path

from croc_cli.report.learning import MAX_GROUPS, learning_figures
from croc_cli.report.run_data import read_run
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


def test_the_held_out_loss_is_drawn_beside_that_of_the_training(tmp_path: Path) -> None:
    held = {"caption_loss": 1.5, "other_picture_caption_loss": 2.5, "picture_gain": 1.0, "samples": 8}
    run = read_run(with_groups(tmp_path / "run", held_out=held))
    [figure] = learning_figures(run)
    assert figure.name == "finetune-held-out-loss"
    assert list(dict.fromkeys(row[1] for row in figure.rows[1:])) == ["trained on", "held out", "other picture"]
