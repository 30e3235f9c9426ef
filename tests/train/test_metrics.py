import json
from pathlib import Path

import pytest
import torch

from croc_cli.train.metrics import ExplainedShare, JsonLines, PoolUsage


def test_pool_use_is_counted_since_the_start_and_in_the_window() -> None:
    usage = PoolUsage(4, window=1)
    usage.add(torch.tensor([3, 0, 0, 0]))
    usage.add(torch.tensor([0, 1, 1, 0]))
    shares = usage.shares()
    assert shares["pool_used_share"] == 0.75
    assert shares["pool_window_share"] == 0.5
    assert shares["pool_entropy"] == pytest.approx(0.5)  # two of four tokens, evenly: log 2 / log 4


def test_pool_use_goes_on_after_a_resume_as_if_it_had_not_stopped() -> None:
    first = PoolUsage(3, window=2)
    first.add(torch.tensor([1, 0, 0]))
    second = PoolUsage(3, window=2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for usage in (first, second):
        usage.add(torch.tensor([0, 2, 0]))
    assert first.shares() == second.shares()


def test_predicting_the_mean_explains_nothing_and_worse_than_it_is_negative() -> None:
    explained = ExplainedShare()
    assert explained.value() is None
    explained.add(4.0, 4.0)
    assert explained.value() == 0.0
    explained.add(6.0, 4.0)
    assert explained.value() == -0.25


def test_figures_that_are_not_finite_are_null_in_the_file(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.write(step=1, loss=float("nan"), learning_rate={"llm": float("inf")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss": None,
        "learning_rate": {"llm": None},
    }


def test_lines_of_steps_that_will_be_run_again_and_half_lines_are_dropped(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        lines.write(step=step)
    with lines.path.open("a") as file:
        file.write('{"step": 4, "lo')
    lines.drop_after(2)
    assert [json.loads(line)["step"] for line in lines.path.read_text().splitlines()] == [1, 2]


def test_a_rank_that_does_not_write_makes_no_file(tmp_path: Path) -> None:
    JsonLines(tmp_path / "metrics.jsonl", enabled=False).write(step=1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_lines_are_held_back_while_the_disk_is_full_and_written_when_it_is_not(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.symlink_to("/dev/full")  # every write to it fails with ENOSPC
    lines = JsonLines(file)
    lines.write(step=1)
    lines.write(step=2)
    file.unlink()
    lines.write(step=3)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]


def test_a_folder_that_goes_and_comes_back_loses_no_line_and_is_not_made_anew(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "run" / "metrics.jsonl")
    lines.write(step=1)
    (tmp_path / "run").rename(tmp_path / "away")
    lines.write(step=2)
    assert not (tmp_path / "run").exists()
    (tmp_path / "away").rename(tmp_path / "run")
    lines.write(step=3)
    found = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in found] == [1, 2, 3]


def test_a_line_that_a_crash_cut_does_not_spoil_the_next(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"step": 1}\n{"ste')
    JsonLines(file).write(step=2)
    assert file.read_text() == '{"step": 1}\n{"ste\n{"step": 2}\n'
