"""Every command that a hint shows can be typed as it stands."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.croc import croc
from tests.commands.hints import Shown, shown_commands
from tests.report.runs import make_run

VALUES = {
    "recipe": "mine.yaml",
    "argument_of(recipe)": "mine.yaml",
    "recipe_argument": "mine.yaml",
    "name": "mine.yaml",
    "before": "align",
    "command": "align",
    "nearest": "nano",
    "stage": "align",
    "self.name": "pope",
    "benchmark.name": "pope",
    "spec.catalog": "lcs558k",
    "root.parent": "runs/mine",
    "run_dir": "runs/mine",
    "request.file": "mine",
}
"""What stands for an expression of the code; anything else is a path."""
WITHOUT_PLACE = re.compile(r"\b(DIR|FILE|SRC|DST|IMAGE|PICTURE|NAMES?|RECIPE|RUN_DIR|PATH|MODEL)\b|…|\.\.\.")
COMMANDS = sorted(set(shown_commands()), key=lambda shown: (shown.place, shown.text))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up project: a recipe, data with pictures, a folder of pictures, a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("pictures").mkdir()
    Path("photos").mkdir()
    rows = []
    for number in range(3):
        Image.new("RGB", (40, 30), (number * 50, 90, 20)).save(f"pictures/{number}.png")
        Image.new("RGB", (40, 30), (number * 50, 90, 20)).save(f"photos/{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": f"picture {number}"}]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    Path("my.json").write_text(json.dumps(rows))
    with Path("photos/metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text"], *([f"{n}.png", f"photo {n}"] for n in range(3))])
    assert croc("init", "mine.yaml", "--data", "my.json", "--images", "pictures", "--like", "nano").code == 0
    assert croc("init", "mixed.yaml", "--data", "photos", "--like", "nano").code == 0
    make_run(Path("runs/mine"))
    return tmp_path


def typed(shown: Shown) -> list[str]:
    """Return a shown command's words, with values of the made-up project in place of expressions."""
    return shlex.split(re.sub(r"\{(.*?)\}", lambda found: VALUES.get(found[1], "my.json"), shown.text))[1:]


def test_hints_show_commands() -> None:
    assert len(COMMANDS) > 25
    assert any(shown.text == "croc recipes list" for shown in COMMANDS)


@pytest.mark.parametrize("shown", COMMANDS, ids=[f"{shown.place} {shown.text}" for shown in COMMANDS])
def test_a_shown_command_has_no_gaps_and_its_flags_exist(project: Path, shown: Shown) -> None:
    assert WITHOUT_PLACE.search(shown.text) is None
    answer = croc(*typed(shown), *([] if "--help" in shown.text else ["--help"]))
    assert answer.code == 0, answer.err


HINTED = re.compile(r"`croc ([^`]+)`")
LIGHT = ("recipes", "plan", "init", "report", "data", "doctor", "eval", "align", "reconstruct", "finetune", "run")


@pytest.mark.parametrize(
    "mistake",
    [
        ("align", "nosuch.yaml"),
        ("align", "mine"),
        ("align", "nao"),
        ("align", "mixed.yaml"),
        ("run", "mixed.yaml"),
        ("reconstruct", "mine.yaml"),
        ("reconstruct", "mine.yaml", "--run-dir", "elsewhere"),
        ("align", "mine.yaml", "--stpes", "3"),
        ("align", "--mask", "0.5"),
        ("init", "--data", "my.json"),
        ("init", "other.json", "--data", "my.json"),
        ("init",),
        ("report", "nosuch"),
        ("report", "runs/mine/align", "--no-model"),
        ("eval", "compare", "runs/mine/align"),
        ("eval", "score", "runs/mine"),
        ("eval", "mine.yaml", "--benchmark", "pope"),
        ("data", "verify", "nosuch.json"),
        ("data", "fetch"),
        ("data", "fetch", "nosuch"),
        ("data", "mix", "mine.yaml"),
        ("align", "croc-7b"),
    ],
)
def test_commands_of_the_hints_after_a_mistake_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, mistake: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = croc(*mistake)
    assert answer.code == 2, answer.err
    assert "error: " in answer.err
    for found in HINTED.findall(answer.err):
        words = shlex.split(found)
        assert words[0] in LIGHT or words[0] == "demo"
        if words[:2] == ["data", "fetch"] or words[0] in ("align", "reconstruct", "finetune", "run", "demo"):
            words.append("--dry-run")
        if words[:2] == ["data", "prepare"]:
            words.append("--help")
        again = croc(*words)
        assert "no such" not in again.err.lower(), found
        assert again.code == 0 or "--dry-run" in words or words[0] == "eval", (found, again.err)
