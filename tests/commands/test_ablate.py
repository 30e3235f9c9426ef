import json
import re
from pathlib import Path

import pytest

from tests.commands.croc import croc


def stages(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("stages/*/*/recipe.yaml"))


def test_a_dry_run_says_runs_stages_and_hours_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = croc("ablate", "pool-size", "--dry-run")
    assert answer.code == 0, answer.err
    assert "rows         5 × 3 seeds = 15 runs" in answer.out
    assert "stages       48 to run, 0 finished (60 unshared)" in answer.out
    assert re.search(r"time +about 1\.\d hours \(nano as measured on two cores\)", answer.out)
    assert list(tmp_path.iterdir()) == []


def test_rows_run_once_share_align_and_are_shown_again_without_running(fake_worker: Path) -> None:
    first = croc("ablate", "matching", "--seeds", "1", "--run-dir", str(fake_worker))
    assert first.code == 0, first.err
    assert len(stages(fake_worker)) == 10  # one align, three of each other stage
    assert "Table 4c: how masked tokens get their pool tokens" in first.out
    assert "with one seed, which has no interval" in first.out
    page = fake_worker / "report" / "matching" / "index.html"
    assert f"report: {page}" in first.err
    assert len(json.loads((page.parent / "matching.json").read_text())["rows"]) == 3
    again = croc("ablate", "matching", "--seeds", "1", "--run-dir", str(fake_worker))
    assert "nothing left to run" in again.err
    assert again.out == first.out
    more = croc("ablate", "attention", "--seeds", "1", "--run-dir", str(fake_worker), "--dry-run")
    assert "stages       3 to run, 7 finished" in more.out


def test_a_row_that_fails_is_named_and_the_others_are_shown(fake_worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = croc("ablate", "attention", "--seeds", "1", "--run-dir", str(fake_worker))
    assert done.code == 0, done.err
    monkeypatch.setenv("FAKE_WORKER", "fail")
    answer = croc("ablate", "matching", "--seeds", "1", "--run-dir", str(fake_worker))
    assert answer.code == 1
    assert "error: rows that failed: matching-nearest, seed 0" in answer.err
    assert "hint: the same command tries them again" in answer.err
    assert "Hungarian Matching" in answer.out
    monkeypatch.setenv("FAKE_WORKER", "finish")
    assert croc("ablate", "matching", "--seeds", "1", "--run-dir", str(fake_worker)).code == 0


def test_wrong_names_are_wrong_usage_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (("pool",), "unknown ablation 'pool'"),
        (("matching", "--base", "nona"), "no recipe named 'nona'"),
        (("matching", "--reuse", "gone"), "--reuse gone: no such folder"),
        (("matching", "--set", "reconstruct.max_stepz=3"), "max_stepz"),
    ):
        answer = croc("ablate", *arguments)
        assert answer.code == 2, arguments
        assert message in answer.err
    assert list(tmp_path.iterdir()) == []


def test_the_papers_own_base_says_that_it_needs_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    planned = croc("ablate", "matching", "--base", "croc-7b", "--seeds", "1", "--dry-run")
    assert "a guess: 8 A100s at 40 % of their peak" in planned.out
    answer = croc("ablate", "matching", "--base", "croc-7b", "--seeds", "1")
    assert answer.code == 2
    assert "needs CUDA GPUs" in answer.err
