import json
from pathlib import Path

from croc_cli.report.metrics_reader import read_metrics


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_values_of_a_bin_are_averaged_and_their_range_is_kept(tmp_path: Path) -> None:
    rows = [json.dumps({"step": step, "loss": float(step), "learning_rate": {"llm": 0.5}}) for step in range(1, 9)]
    metrics = read_metrics(write(tmp_path / "m.jsonl", rows), max_bins=4)
    loss = metrics.curves["loss"]
    assert loss.steps == [1.5, 3.5, 5.5, 7.5]
    assert loss.means == [1.5, 3.5, 5.5, 7.5]
    assert (loss.lows, loss.highs) == ([1.0, 3.0, 5.0, 7.0], [2.0, 4.0, 6.0, 8.0])
    assert metrics.curves["learning_rate/llm"].means == [0.5] * 4
    assert (metrics.num_rows, metrics.max_step) == (8, 8)


def test_bins_only_widen_when_there_are_too_many(tmp_path: Path) -> None:
    rows = [json.dumps({"step": step, "loss": 1.0}) for step in range(1, 5)]
    assert read_metrics(write(tmp_path / "m.jsonl", rows), max_bins=4).curves["loss"].steps == [1.0, 2.0, 3.0, 4.0]


def test_a_hundred_thousand_steps_keep_a_bounded_number_of_points(tmp_path: Path) -> None:
    rows = [f'{{"step": {step}, "loss": 1.0}}' for step in range(1, 100_001)]
    metrics = read_metrics(write(tmp_path / "m.jsonl", rows))
    assert metrics.max_step == 100_000
    assert 300 <= len(metrics.curves["loss"].steps) <= 600


def test_torn_lines_and_lines_of_another_tool_are_counted_and_left_out(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "loss": 2.0}',
        '{"step": 2, "lo',
        "[1, 2]",
        '{"loss": 1.0}',
        "",
        '{"step": true, "loss": 9.0}',
    ]
    metrics = read_metrics(write(tmp_path / "m.jsonl", lines))
    assert metrics.curves["loss"].means == [2.0]
    assert metrics.num_torn == 4
    assert metrics.notes() == ["metrics.jsonl has 4 lines that are cut off or no JSON, left out"]


def test_a_line_cut_inside_a_letter_is_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_bytes('{"step": 1, "loss": 2.0}\n{"step": 2, "note": "α"}'.encode()[:-4])
    assert read_metrics(file).num_torn == 1


def test_values_that_are_not_finite_are_counted_whichever_way_they_are_written(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "loss": 1.0}',
        '{"step": 2, "loss": NaN}',
        '{"step": 3, "loss": null}',
        '{"step": 4, "loss": 3.0}',
    ]
    metrics = read_metrics(write(tmp_path / "m.jsonl", lines))
    assert metrics.curves["loss"].means == [1.0, 3.0]
    assert metrics.num_not_finite == 2


def test_what_is_not_measured_at_a_step_is_no_missing_number(tmp_path: Path) -> None:
    lines = ['{"step": 1, "gradient_shares": {"caption": 1.0}}', '{"step": 2, "gradient_shares": null}']
    metrics = read_metrics(write(tmp_path / "m.jsonl", lines))
    assert metrics.curves["gradient_shares/caption"].means == [1.0]
    assert metrics.notes() == []


def test_steps_that_a_resumed_run_wrote_again_are_averaged_and_counted(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss": 1.0}', '{"step": 2, "loss": 2.0}', '{"step": 2, "loss": 4.0}']
    metrics = read_metrics(write(tmp_path / "m.jsonl", lines))
    assert metrics.curves["loss"].means == [1.0, 3.0]
    assert metrics.notes() == ["metrics.jsonl has 1 step written twice, averaged"]


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "gone.jsonl").curves == {}
