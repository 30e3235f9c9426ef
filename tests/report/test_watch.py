import itertools
import json
import os
import re
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from croc_cli.commands.watch import _add_new_runs
from croc_cli.errors import UsageError
from croc_cli.launch.run_lock import RunLock
from croc_cli.report.live_page import LivePage
from croc_cli.report.run_list import list_runs
from croc_cli.report.watch import frame, plain_line, sparkline
from croc_cli.run_dir import RunDir, write_json
from tests.commands.croc import croc
from tests.report.runs import make_run, row
from tests.report.test_browser import CHROMIUM, chromium


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "nano", stages=("align", "reconstruct"))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_frame_fits_the_terminal(run: Path, width: int) -> None:
    text = frame([run, run], width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "reconstruct" in text


def test_a_frame_shows_curves_figures_and_the_newest_warning(run: Path) -> None:
    events = RunDir(run).stage("reconstruct").events_file
    lines = [{"level": "warning", "message": "first"}, {"level": "warning", "message": "2 images did not open"}]
    events.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"level": "warn')
    text = frame([run], width=80)
    for words in ("caption loss", "reconstruction", "tokens/s", "pool 90%", "free", "warning: 2 images did not open"):
        assert words in text


def test_a_sparkline_goes_from_low_to_high() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], width=8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], width=2) == "▁█"
    assert sparkline([3, 3], width=5) == "▁▁"


def test_a_pipe_gets_plain_lines_and_ends_when_nothing_runs(run: Path) -> None:
    answer = croc("watch", str(run))
    assert answer.code == 0
    assert answer.out == plain_line(run) + "\n"
    assert "step 20/20" in answer.out


def test_two_runs_that_write_at_the_same_time_are_both_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # short names, which leave room for the rest of the line
    runs = [make_run(Path(name), stages=("align",), scenes=None, steps=1) for name in ("one", "two")]
    ended = threading.Event()

    def keep_writing(folder: Path) -> None:
        with RunLock(RunDir(folder), doing="align", say=print):
            for step in itertools.count(1):
                RunDir(folder).stage("align").summary_file.unlink(missing_ok=True)
                with RunDir(folder).stage("align").metrics_file.open("a") as file:
                    file.write(json.dumps(row(step, 10**6, stage="align")) + "\n")
                if ended.wait(0.001):
                    return

    writers = [threading.Thread(target=keep_writing, args=(folder,)) for folder in runs]
    for writer in writers:
        writer.start()
    seen: list[list[int]] = [[], []]
    try:
        deadline = time.monotonic() + 20
        while min(len(set(steps)) for steps in seen) < 5:
            assert time.monotonic() < deadline
            text = frame(runs, width=80)
            assert max(map(len, text.splitlines())) <= 80
            heads = re.findall(r"step ([\d,]+)/1,000,000 · running", text)
            for steps, head in zip(seen, heads, strict=len(heads) == 2):
                steps.append(int(head.replace(",", "")))
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert all(steps == sorted(steps) for steps in seen)


def test_a_run_that_appears_later_is_shown_too(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "runs" / "one")]
    _add_new_runs([tmp_path / "runs"], folders)
    make_run(tmp_path / "runs" / "two")
    _add_new_runs([tmp_path / "runs"], folders)
    assert [folder.name for folder in folders] == ["one", "two"]
    empty = [tmp_path / "later"]
    empty[0].mkdir()
    folders = list(empty)
    _add_new_runs(empty, folders)
    assert folders == empty  # named as a run that has not started
    make_run(empty[0] / "three")
    _add_new_runs(empty, folders)
    assert [folder.name for folder in folders] == ["three"]


def test_a_folder_without_a_run_and_a_missing_one_are_told(tmp_path: Path) -> None:
    assert "no such folder" in croc("watch", str(tmp_path / "nosuch")).err
    empty = croc("watch", str(tmp_path))
    assert empty.code == 0
    assert "never started" in empty.out


def test_the_page_is_served_on_the_loopback_address_and_follows_the_run(run: Path, tmp_path: Path) -> None:
    page = LivePage([run], tmp_path / "page")
    try:
        assert page.address.startswith("http://127.0.0.1:")
        assert b"being made" in urllib.request.urlopen(page.address).read()
        assert page.refresh()
        first = urllib.request.urlopen(page.address).read().decode()
        assert '<meta http-equiv="refresh" content="10">' in first
        assert not page.refresh()
        with RunDir(run).stage("align").metrics_file.open("a") as file:
            file.write(json.dumps(row(21, 21)) + "\n")
        assert page.refresh()
        assert urllib.request.urlopen(page.address).read().decode() != first
        assert urllib.request.urlopen(page.address + "align-caption-loss.csv").status == 200
        with pytest.raises(UsageError, match="--port"):
            LivePage([run], tmp_path / "page", port=page.server.server_address[1])
    finally:
        page.close()


def test_a_page_of_the_users_is_neither_replaced_nor_handed_out(run: Path) -> None:
    mine = run / "report" / "index.html"
    mine.parent.mkdir()
    mine.write_text("mine")
    answer = croc("watch", str(run), "--page", "--once")
    assert answer.code == 2
    assert "report/index.html" in answer.err
    assert mine.read_text() == "mine"


def test_damaged_figures_are_left_out(run: Path) -> None:
    stage = RunDir(run).stage("reconstruct")
    odd = {"seconds_left": 1e400, "learning_rate": [1], "loss": "x", "total_steps": "many", "tokens_per_second": {}}
    odd |= {"caption_loss": [], "pool_window_share": True, "padding_share": float("nan"), "held_out": 7}
    odd |= {"source": {"a": {"loss": 1.0, "tokens": {}}, "b": 3, "c": {"loss": "x"}}}
    with stage.metrics_file.open("a") as file:
        file.write(json.dumps({"step": 21, **odd}) + "\n")
        file.write(json.dumps({"step": 22, "learning_rate": {"llm": "x"}, "caption_loss": float("nan")}) + "\n")
    write_json(stage.summary_file, {"finished": False})
    write_json(RunDir(run).lock_file, {"process": {"host": os.uname().nodename, "pid": 10**15, "started": ""}})
    stage.events_file.write_text('{"level": "error", "message": "a\\nb \\u001b[31mred"}\n')
    for command in (("watch", str(run), "--once"), ("watch", str(run)), ("runs", str(run))):
        answer = croc(*command)
        assert answer.code == 0, answer.err
        assert "22" in answer.out
    shown = frame([run], width=80)
    assert "error: a b" in shown
    assert "\x1b" not in shown


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_browser_shows_the_served_page_and_what_changed(run: Path, tmp_path: Path) -> None:
    page = LivePage([run], tmp_path / "page")
    try:
        assert page.refresh()
        shown = chromium("--dump-dom", page.address).stdout
        assert shown.count('class="plot"') > 5
        assert "not finished" not in shown
        RunDir(run).stage("align").summary_file.write_text('{"finished": false}')
        assert page.refresh()
        assert "not finished" in chromium("--dump-dom", page.address).stdout
    finally:
        page.close()


def test_the_page_follows_the_run_by_itself(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("croc_cli.report.live_page.REFRESH_SECONDS", 0.05)
    page = LivePage([run], tmp_path / "page")
    try:
        page.follow()
        deadline = time.monotonic() + 30
        while not (tmp_path / "page/index.html").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / "page/index.html").is_file()
    finally:
        page.close()


def test_held_out_losses_and_the_sources_of_a_mix_have_lines(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "mixed", stages=("finetune",))
    stage = RunDir(folder).stage("finetune")
    names = ["llava-instruct", "a-source-with-a-long-name", *"abcdef"]
    lines = []
    for step in range(1, 1001):
        groups = {name: {"loss": 1.0 + n, "tokens": 90 - n, "samples": 1} for n, name in enumerate(names)}
        held_out = {"held_out": {"caption_loss": 1.5 - step / 1000}} if step % 250 == 0 else {}
        lines.append(json.dumps(row(step, 2000, stage="finetune") | {"source": groups} | held_out) + "\n")
    stage.metrics_file.write_text("".join(lines) + '{"step": 1001, "held_out": {"cap')
    text = frame([folder], width=80)
    assert max(map(len, text.splitlines())) <= 80
    shown = [line.split() for line in text.splitlines()]
    assert ["held-out", "loss", "█▆▃▁", "0.500"] in shown
    assert [line[0] for line in shown if line[0].startswith(("llava", "a-source"))] == [
        "llava-instruct",
        "a-source-with-…",
    ]
    assert ["and", "2", "more", "sources"] in shown
    [state] = list_runs([folder])
    assert state.held_out_loss == 0.5  # of step 1,000; later steps without one do not hide it


def test_one_source_alone_is_the_stage_itself_and_has_no_line(run: Path) -> None:
    with RunDir(run).stage("reconstruct").metrics_file.open("a") as file:
        file.write(json.dumps(row(21, 21) | {"source": {"scenes": {"loss": 1.0, "tokens": 5, "samples": 1}}}) + "\n")
    assert "scenes" not in frame([run], width=80)
