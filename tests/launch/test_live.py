import io

import pytest

from croc_cli.launch.live import LiveLine, PlainLines, format_metrics, format_seconds, live_line
from croc_cli.progress import bar


def test_a_step_is_told_in_one_line() -> None:
    row = {
        "step": 12,
        "total_steps": 250,
        "loss": 5.0,
        "caption_loss": 1.23456,
        "reconstruction_loss": 0.5,
        "learning_rate": {"llm": 3e-4, "projector": 3e-4, "token_pool": 1e-3},
        "tokens_per_second": 12345.6,
        "seconds_left": 187.0,
        "assignment_wait_share": 0.0412,
        "pool_window_share": 0.98,
    }
    assert format_metrics(row) == (
        "step 12/250 · caption loss 1.235 · reconstruction loss 0.500 · rate 3.0e-04/1.0e-03 · 12,346 tokens/s"
        " · 3:07 left · assignment wait 4% · pool 98%"
    )


def test_the_live_line_keeps_the_last_held_out_loss() -> None:
    line = LiveLine("align", io.StringIO())
    line.metrics({"step": 1, "total_steps": 9, "held_out": {"caption_loss": 1.25}})
    line.metrics({"step": 2, "total_steps": 9})
    assert line.row is not None
    assert format_metrics(line.row) == "step 2/9 · held-out 1.250"


def test_figures_that_a_step_does_not_have_are_left_out() -> None:
    assert format_metrics({"step": 1, "total_steps": 2, "reconstruction_loss": None}) == "step 1/2"


def test_without_a_terminal_lines_come_now_and_then_and_the_last_step_always() -> None:
    stream = io.StringIO()
    with PlainLines("align", stream, seconds=1000) as lines:
        for step in range(1, 6):
            lines.metrics({"step": step, "total_steps": 5})
    assert stream.getvalue() == "align step 1/5\nalign step 5/5\n"


def test_a_run_that_breaks_off_shows_the_last_step_it_made() -> None:
    stream = io.StringIO()
    with PlainLines("align", stream, seconds=1000) as lines:
        for step in range(1, 4):
            lines.metrics({"step": step, "total_steps": 5})
    assert stream.getvalue() == "align step 1/5\nalign step 3/5\n"


def test_durations_are_short_to_read() -> None:
    assert [format_seconds(value) for value in (0.4, 42, 187, 3723, 90_000)] == [
        "0 s",
        "42 s",
        "3:07",
        "1:02:03",
        "1 d 01:00:00",
    ]


def test_the_bar_grows_with_the_steps() -> None:
    assert bar(1, 4, width=4) == "━───"
    assert bar(0, 0, width=4) == "────"
    assert bar(9, 4, width=4) == "━━━━"


ROW = {
    "step": 1234,
    "total_steps": 12000,
    "caption_loss": 1.2,
    "reconstruction_loss": 0.5,
    "learning_rate": {"llm": 3e-4},
    "tokens_per_second": 12345.6,
    "seconds_left": 100_000.0,
    "assignment_wait_share": 0.04,
    "pool_window_share": 0.98,
}


@pytest.mark.parametrize("stage", ["align", "reconstruct", "preflight of reconstruct"])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_the_live_line_fits_the_terminal(stage: str, width: int) -> None:
    assert len(live_line(stage, ROW, width=width)) <= width


def test_step_losses_and_time_left_stay_longest() -> None:
    assert live_line("reconstruct", ROW, width=80) == (
        "step 1234/12000 · caption 1.200 · reconstruction 0.500 · 1 d 03:46:40 left"
    )
    assert live_line("align", ROW | {"reconstruction_loss": None}, width=80) == (
        "align ━─────────── step 1234/12000 · caption loss 1.200 · 1 d 03:46:40 left"
    )
    assert live_line("align", ROW, width=20) == "step 1234/12000"


def test_messages_above_the_live_line_break_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = io.StringIO()
    LiveLine("align", stream).message("warning: 3 images did not open, such as a/b.jpg")
    assert stream.getvalue() == "warning: 3 images did not\nopen, such as a/b.jpg\n"
