"""The comparison resumes where it stopped, and its two chains differ in the reconstruct stage alone."""

import json
from pathlib import Path

import pytest

from tests.smol import compare
from tests.smol.compare import Comparison


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Note the commands instead of running them; a stage leaves its checkpoint, a score its line."""
    ran: list[list[str]] = []

    def run(command: list[str], _times: Path, *, stdout: Path | None = None) -> None:
        ran.append(command[2:])
        if stdout is not None:
            stdout.write_text(json.dumps({"right": float(len(ran)), "swapped": 9.0}))
            return
        run_folder = Path(command[command.index("--run-dir") + 1])
        (run_folder / command[3] / "checkpoints" / "step-00000016").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(compare, "timed", run)
    return ran


def comparison(folder: Path) -> Comparison:
    return Comparison(folder / "data", folder / "parts", folder / "out", ("finetune.max_steps=2",))


def test_both_chains_share_align_and_differ_in_the_reconstruct_stage_alone(
    tmp_path: Path, commands: list[list[str]]
) -> None:
    compare.compare(comparison(tmp_path), [3], count=7)
    stages = [command[1] if command[0] == "croc_cli" else "score" for command in commands]
    assert stages == ["align", "reconstruct", "finetune", "score", "align", "finetune", "score"]
    first, alone = (command for command in commands if command[1] == "finetune")
    start = alone.index("--from")
    assert alone[start + 1] == str(tmp_path / "out" / "seed-3" / "align" / "checkpoints" / "step-00000016")
    assert alone[4] == first[4] + "-without"
    assert [*alone[:4], *alone[5:start], *alone[start + 2 :]] == [*first[:4], *first[5:]]
    assert "finetune.max_steps=2" in first


def test_a_comparison_that_was_stopped_scores_nothing_twice(tmp_path: Path, commands: list[list[str]]) -> None:
    compare.compare(comparison(tmp_path), [0], count=7)
    ran = len(commands)
    rows = compare.compare(comparison(tmp_path), [0, 1], count=7)
    assert len(commands) == 2 * ran
    assert [(row["seed"], row["reconstruct"]) for row in rows] == [(0, True), (0, False), (1, True), (1, False)]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == rows
