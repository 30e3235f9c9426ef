import json
from pathlib import Path

import pytest
from PIL import Image

from croc_cli.chat.compare import ModelAnswer, show_answers
from tests.commands.croc import croc
from tests.tiny import make_tiny_llava

TWO = [ModelAnswer("runs/a", "A red circle, and quite a lot more about it."), ModelAnswer("runs/b", "Two\nlines.")]


def test_answers_stand_in_columns_on_a_wide_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    show_answers(TWO)
    assert capsys.readouterr().out.splitlines() == [
        "runs/a                         runs/b",
        "-----------------------------  -----------------------------",
        "A red circle, and quite a lot  Two",
        "more about it.                 lines.",
    ]


def test_answers_stand_below_each_other_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_answers(TWO)
    assert capsys.readouterr().out == (
        "runs/a\n  A red circle, and quite a lot more about it.\n\nruns/b\n  Two\n  lines.\n\n"
    )


def test_two_models_answer_the_same_question(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    folders = [str(make_tiny_llava(tmp_path / name, seed=seed)) for name, seed in (("a", 1), ("b", 2))]
    words = ["compare-answers", str(tmp_path / "red.png"), "What?", "--max-tokens", "4", "--device", "cpu"]
    answer = croc(*words, *[word for folder in folders for word in ("--model", folder)], "--format", "json")
    found = json.loads(answer.out)
    assert [one["model"] for one in found] == folders
    assert found[0]["answer"] != found[1]["answer"]
    missing = croc(*words, "--model", folders[0], "--model", str(tmp_path / "none"))
    assert missing.code == 2
    assert "asking" not in missing.err
