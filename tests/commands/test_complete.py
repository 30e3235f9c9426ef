import os
import subprocess
import sys
from pathlib import Path

import pytest

from croc_cli.commands import complete


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs/mine/align/checkpoints/step-00000004").mkdir(parents=True)
    (tmp_path / "runs/notes").mkdir()
    (tmp_path / "mine.yaml").write_text("extends: nano\n")
    (tmp_path / "my.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(line: str) -> list[str]:
    """Return what bash is offered for a line that ends where Tab is pressed."""
    words = line.split(" ")
    environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_CROC_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", "from croc_cli.commands.app import app; app(prog_name='croc')"]
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    return run.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("croc alig", ["align"]),
        ("croc align mi", ["mine.yaml"]),
        ("croc align --from runs/", ["runs/mine/align/checkpoints/step-00000004"]),
        ("croc report ru", ["runs/mine"]),
        ("croc eval compare ru", ["runs/mine"]),
        ("croc chat --model ru", ["runs/mine/align/checkpoints/step-00000004"]),
        ("croc eval --benchmark pope,mmb", ["pope,mmbench", "pope,mmbench_cn"]),
        ("croc eval scor", ["score"]),
        ("croc data verify my", ["my.json"]),
    ],
)
def test_the_shell_is_offered_recipes_runs_checkpoints_and_benchmarks(line: str, offered: list[str]) -> None:
    assert completed(line) == offered


def test_shipped_recipes_follow_those_of_the_folder() -> None:
    found = complete.recipes("")
    assert found[0] == "mine.yaml"
    assert {"nano", "croc-7b", "ablations/pool-size-1"} <= set(found)
    assert "nano" in complete.recipes_or_files("na")
    assert complete.recipes_or_files("runs/m") == ["runs/mine/"]
    assert complete.recipes_or_files("nosuch/") == []


def test_help_names_how_to_install_completion() -> None:
    command = [sys.executable, "-m", "croc_cli", "--help"]
    assert "--install-completion" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
