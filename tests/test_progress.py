import io

import pytest

from croc_cli import progress
from croc_cli.progress import Measure, amount, bar, clock, open_progress, size_text, work_line


def test_without_a_terminal_short_work_is_silent_and_a_result_is_said() -> None:
    stream = io.StringIO()
    with open_progress(stream) as shown:
        task = shown.task("images.zip", 10, "bytes")
        task.update(5)
        task.close()
        shown.task("list.json", None, "files").close("12 files")
    assert stream.getvalue() == "list.json: 12 files\n"


def test_long_work_is_said_now_and_then_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with work_line("rows", stream) as count:
        for done in range(0, 40):
            count("reading", done * 10, 400)
            now[0] += 1
    assert stream.getvalue().splitlines() == [
        "reading: 20 of 400 rows, 10/s, 0:38 left",
        "reading: 120 of 400 rows, 10/s, 0:28 left",
        "reading: 220 of 400 rows, 10/s, 0:18 left",
        "reading: 320 of 400 rows, 10/s, 0:08 left",
        "reading: 390 of 400 rows, 10/s, 0:01 left",
    ]


def test_work_that_is_resumed_counts_its_rate_from_where_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    measure = Measure(1000, "files")
    measure.update(900)
    now[0] = 10.0
    measure.update(950)
    assert measure.describe() == "950 of 1,000 files, 5/s, 0:10 left"


def test_amounts_durations_and_bars_are_short_to_read() -> None:
    assert (amount(1200, "rows"), amount(27_400_000_000, "bytes"), amount(3, "")) == ("1,200 rows", "27.4 GB", "3")
    assert [clock(seconds) for seconds in (4, 187, 3723)] == ["0:04", "3:07", "1:02:03"]
    assert size_text(999) == "999 B"
    assert bar(1, 4, width=4) == "━───"
    assert bar(0, None, width=4) == "━───"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_goes_and_results_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with open_progress(stream) as shown:
        task = shown.task("images.zip", 10, "bytes")
        task.update(5)
        shown._live.refresh()  # type: ignore[attr-defined]
        task.close("unpacked")
    assert "images.zip ━━━━━━──────" in stream.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").replace(
        "\x1b[36m", ""
    )
    assert "images.zip: unpacked" in stream.getvalue()
