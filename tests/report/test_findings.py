"""Each rule of what to look at: quiet on a good run, firing on a run that is broken in one way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import UsageError
from croc_cli.report.findings import Finding, Limits, parse_limits, run_findings
from croc_cli.report.run_data import read_run
from croc_cli.report.run_page import write_report
from croc_cli.run_dir import RunDir
from tests.commands.croc import croc
from tests.report.runs import make_run

STEPS = 200
Row = dict[str, Any]


def good(step: int) -> Row:
    """Return a step of a run that is well: all losses fall, with noise; every tenth step, held-out samples."""
    progress = step / STEPS
    noise = 0.1 * (step * 7919 % 13 - 6) / 6
    loss = (2.0 - progress) * (1 + noise)
    row: Row = {"step": step, "total_steps": STEPS, "loss": loss, "caption_loss": loss, "reconstruction_loss": 1.0}
    row |= {"pool_used_share": 1.0, "pool_window_share": min(1.0, 0.5 + progress), "explained_share": progress - 0.3}
    row |= {"gradient_norm": 1.0 + 3 * abs(noise), "step_seconds": 2.0, "padding_share": 0.25, "skipped": False}
    row |= {"data_seconds": 0.02, "rank_wait_seconds": 0.01, "save_seconds": 3.0 if step % 100 == 0 else 0.0}
    row["source"] = {name: {"loss": loss * scale, "tokens": 50, "samples": 4} for name, scale in (("a", 1), ("b", 2))}
    if step % 10 == 0:
        row["held_out"] = {"caption_loss": 2.1 - progress, "explained_share": progress - 0.35}
    return row


def run_of(folder: Path, change: Callable[[Row], object] = lambda row: None, *, steps: int = STEPS) -> Path:
    """Write a run of one stage whose rows were changed."""
    make_run(folder, stages=("reconstruct",), scenes=None)
    rows = [good(step) for step in range(1, steps + 1)]
    for row in rows:
        change(row)
    RunDir(folder).stage("reconstruct").metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def found(folder: Path, limits: Limits | None = None) -> list[Finding]:
    return run_findings(read_run(folder), limits)


def set_if(condition: Callable[[int], bool], **values: Any) -> Callable[[Row], None]:
    """Return a change of the rows whose step meets a condition."""

    def change(row: Row) -> None:
        if condition(row["step"]):
            for key, value in values.items():
                inner, _, name = key.partition("__")
                (row.get(inner, {}) if name else row)[name or inner] = value

    return change


def held_out_rises(row: Row) -> None:
    if "held_out" in row and row["step"] > 80:
        row["held_out"]["caption_loss"] = 1.7 + (row["step"] - 80) / STEPS


def source_is_flat(row: Row) -> None:
    row["source"]["b"]["loss"] = 1.5 * (1 + 0.1 * (row["step"] * 7919 % 13 - 6) / 6)


BROKEN = [
    pytest.param(held_out_rises, "held_out_rise", "rose from 1.700 (step 80) to 2.300", id="overfitted"),
    pytest.param(set_if(lambda step: True, explained_share=-0.2), "explained_share", "share -0.20", id="explains less"),
    pytest.param(
        set_if(lambda step: True, explained_share=0.0), "explained_share", "share 0.00", id="explains nothing"
    ),
    pytest.param(
        set_if(lambda step: True, held_out__explained_share=-0.1), "explained_share", "held-out images -0.10", id="held"
    ),
    pytest.param(
        set_if(lambda step: step > 150, pool_window_share=0.4), "pool_drop", "fell from 100% to 40%", id="pool"
    ),
    pytest.param(
        set_if(lambda step: step in (90, 120), gradient_norm=40.0), "gradient_spike", "norm 40 at step 90", id="spike"
    ),
    pytest.param(source_is_flat, "loss_fall", "source b does not learn", id="source"),
    pytest.param(set_if(lambda step: True, caption_loss=2.0), "loss_fall", "went from 2.000 to 2.000", id="stage"),
    pytest.param(set_if(lambda step: True, padding_share=0.7), "padding", "70% of the places", id="padding"),
    pytest.param(set_if(lambda step: True, data_seconds=1.0), "data_wait", "50% of the time (200 seconds)", id="data"),
    pytest.param(set_if(lambda step: True, rank_wait_seconds=0.5), "rank_wait", "25% of the time", id="ranks"),
    pytest.param(set_if(lambda step: step % 10 == 0, save_seconds=5.0), "save_wait", "20% of the time", id="saves"),
]


def test_a_good_run_has_nothing_to_look_at(tmp_path: Path) -> None:
    assert found(run_of(tmp_path / "run")) == []
    assert found(make_run(tmp_path / "short")) == []


@pytest.mark.parametrize(("change", "rule", "figure"), BROKEN)
def test_a_rule_fires_alone_on_a_run_broken_its_way(
    change: Callable[[Row], object], rule: str, figure: str, tmp_path: Path
) -> None:
    [finding] = found(run_of(tmp_path / "run", change))
    assert finding.rule == rule
    assert finding.text.startswith("reconstruct: ")
    assert figure in finding.text


def test_the_page_lists_what_is_unusual_each_with_a_link_to_its_chart(tmp_path: Path) -> None:
    def all_at_once(row: Row) -> None:
        for param in BROKEN:
            if param.id not in ("stage", "explains nothing"):
                param.values[0](row)  # type: ignore[operator]

    folder = run_of(tmp_path / "run", all_at_once)
    findings = found(folder)
    assert {one.rule for one in findings} == set(Limits.__dataclass_fields__)
    page = write_report([folder]).read_text()
    assert page.index("What to look at") < page.index("<main>")
    for finding in findings:
        assert f'href="#figure-{finding.chart}"' in page, finding
        assert page.count(f'id="figure-{finding.chart}"') == 1


def test_every_limit_is_tried_above_and_moves_its_rule(tmp_path: Path) -> None:
    lax = dict.fromkeys(Limits.__dataclass_fields__, "1e9") | {"explained_share": "-9", "loss_fall": "-9"}
    limits = parse_limits([f"{name}={value}" for name, value in lax.items()])
    assert {param.values[1] for param in BROKEN} == set(lax)
    for number, param in enumerate(BROKEN):
        change, rule, _ = param.values
        folder = run_of(tmp_path / str(number), change)  # type: ignore[arg-type]
        assert found(folder, limits) == [], rule


def test_early_steps_explain_nothing_and_that_is_not_told(tmp_path: Path) -> None:
    assert found(run_of(tmp_path / "run", set_if(lambda step: True, explained_share=-3.0), steps=90)) == []


def test_one_bad_measurement_of_held_out_samples_is_no_rise(tmp_path: Path) -> None:
    assert found(run_of(tmp_path / "run", set_if(lambda step: step == 200, held_out__caption_loss=3.0))) == []


def test_a_held_out_loss_that_rises_with_the_training_loss_is_another_fault(tmp_path: Path) -> None:
    def both_rise(row: Row) -> None:
        held_out_rises(row)
        row["caption_loss"] = 1.5 + abs(row["step"] - 80) / STEPS

    assert "held_out_rise" not in [one.rule for one in found(run_of(tmp_path / "run", both_rise))]


def test_a_source_with_few_noisy_samples_is_not_accused(tmp_path: Path) -> None:
    def noisy(row: Row) -> None:
        row["source"]["b"]["loss"] = 1.5 + (step_noise := (row["step"] * 7919 % 13 - 6) / 4)
        if abs(step_noise) < 1:
            del row["source"]["b"]

    assert found(run_of(tmp_path / "run", noisy)) == []


def test_a_spike_names_the_worst_samples_of_its_step_on_all_ranks(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", set_if(lambda step: step == 90, gradient_norm=40.0))
    stage = RunDir(folder).stage("reconstruct")
    for rank in range(2):
        lines = [
            {"step": step, "ids": [f"s{step}-{rank}{n}" for n in range(9)], "tokens": [5] * 9, "losses": [*range(9)]}
            for step in range(1, STEPS + 1)
        ]
        stage.samples_file(rank).write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2')
    assert found(folder)[0].text.endswith("; the samples with the highest loss: s90-18, s90-08, s90-17")


def test_the_command_tells_findings_on_stderr_and_takes_limits(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", set_if(lambda step: step > 150, padding_share=0.7, pool_window_share=0.4))
    assert len(found(folder)) == 2
    answer = croc("report", str(folder), "--no-model", "--limit", "padding=0.8")
    assert answer.out.strip() == str(folder / "report" / "index.html")
    assert answer.err == "look at: reconstruct: pool use fell from 100% to 40% of the tokens\n"


def test_of_several_runs_findings_name_theirs(tmp_path: Path) -> None:
    run_of(tmp_path / "a"), run_of(tmp_path / "b", set_if(lambda step: step > 150, pool_window_share=0.4))
    page = write_report([tmp_path / "a", tmp_path / "b"], out=tmp_path / "both").read_text()
    assert "b: reconstruct: pool use fell" in page
    assert 'href="#figure-pool-use"' in page


@pytest.mark.parametrize("pair", ["paddding=1", "padding", "padding=x", "padding=nan", "=1"])
def test_wrong_limits_are_told_with_what_would_be_right(pair: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_limits([pair])
    assert pair in error.value.message
    assert "padding" in str(error.value.hint)


def test_values_whose_squares_are_too_large_are_reported_without_an_error(tmp_path: Path) -> None:
    found(run_of(tmp_path / "run", lambda row: row.update(caption_loss=1e300 * (1 + row["step"] % 3))))
