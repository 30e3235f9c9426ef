import webbrowser
from pathlib import Path

import pytest
from PIL import Image

from croc_cli.errors import RunError
from croc_cli.pipeline.figures import compute_model_figures
from croc_cli.run_dir import RunDir, StageDir, write_json
from tests.commands.croc import croc
from tests.report.runs import make_run
from tests.tiny import make_tiny_llava


def small(tmp_path: Path) -> Path:
    return make_run(tmp_path / "nano", stages=("align",), scenes=None)


def test_report_prints_the_page_and_nothing_else_on_stdout(tmp_path: Path) -> None:
    folder = small(tmp_path)
    answer = croc("report", str(folder))
    assert answer.code == 0, answer.err
    assert answer.out.strip() == str(folder / "report" / "index.html")


def test_without_a_display_the_page_is_named_and_the_command_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    answer = croc("report", str(small(tmp_path)), "--open")
    assert answer.code == 0
    assert "no browser could be opened here" in answer.err


def test_open_hands_the_page_to_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)) or True)
    assert croc("report", str(small(tmp_path)), "--open").err == ""
    assert opened[0].startswith("file://")
    assert opened[0].endswith("nano/report/index.html")


def test_a_folder_that_is_no_run_is_wrong_usage(tmp_path: Path) -> None:
    answer = croc("report", str(tmp_path))
    assert answer.code == 2
    assert "holds no run of croc" in answer.err
    assert "hint: a run folder holds" in answer.err


def test_report_alone_shows_its_help() -> None:
    assert "croc report RUN_DIR..." in croc("report").out + croc("report").err


def test_a_run_ends_by_naming_its_page(fake_worker: Path) -> None:
    answer = croc("run", "nano", "--run-dir", str(fake_worker))
    assert answer.code == 0, answer.err
    page = fake_worker / "report" / "index.html"
    assert f"report: {page}" in answer.err
    assert "align: loss of the captions" in page.read_text()


def test_a_page_that_cannot_be_written_does_not_make_the_run_a_failure(fake_worker: Path) -> None:
    fake_worker.mkdir()
    (fake_worker / "report").write_text("in the way")
    answer = croc("run", "nano", "--run-dir", str(fake_worker), "--until", "align")
    assert answer.code == 0
    assert "no report:" in answer.err


def test_attention_is_computed_by_a_worker_and_shown(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    model = make_tiny_llava(tmp_path / "model")
    out = tmp_path / "out"
    arguments = ("--model", str(model), str(tmp_path / "a.png"), "--tokens", "3", "--out", str(out), "--device", "cpu")
    answer = croc("report", "attention", *arguments)
    assert answer.code == 0, answer.err
    assert answer.out.strip() == str(out / "index.html")
    assert "attention of answer tokens (Fig. 8)" in (out / "index.html").read_text()


def test_attention_names_what_is_missing(tmp_path: Path) -> None:
    answer = croc("report", "attention", "--model", "m", str(tmp_path / "gone.jpg"))
    assert answer.code == 2
    assert "gone.jpg is not a file" in answer.err
    assert croc("report", "attention", "--model", "m").code == 2


def test_figures_of_another_checkpoint_are_made_again_and_those_of_this_one_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path | None] = []

    def start(_stage: str, folder: StageDir, _recipe: object, _layout: object, *, start: Path | None) -> None:
        started.append(start)
        write_json(folder.root / "figures.json", {"checkpoint_sha256": "one"})

    monkeypatch.setattr("croc_cli.pipeline.figures._start", start)
    run = RunDir(make_run(tmp_path / "nano", stages=("reconstruct",), scenes=None))
    compute_model_figures(run)
    assert started == []  # no checkpoint is there
    checkpoint = run.stage("reconstruct").checkpoint(20)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    write_json(checkpoint / "croc.json", {"weights_sha256": "one"})
    compute_model_figures(run)
    compute_model_figures(run)
    assert started == [checkpoint]
    write_json(checkpoint / "croc.json", {"weights_sha256": "two"})
    compute_model_figures(run)
    assert started == [checkpoint, checkpoint]


def test_a_worker_that_fails_leaves_the_page_without_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RunError("it broke")

    monkeypatch.setattr("croc_cli.pipeline.figures._start", fail)
    run = RunDir(make_run(tmp_path / "nano", stages=("reconstruct",), scenes=None))
    checkpoint = run.stage("reconstruct").checkpoint(20)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    write_json(checkpoint / "croc.json", {"weights_sha256": "one"})
    compute_model_figures(run)
    assert "no pictures of stage 1.5: it broke" in capsys.readouterr().err
