"""The whole demo, as a user types it; minutes long."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from croc_cli.run_dir import RunDir, read_json

DEMO_SECONDS = 1800


@pytest.mark.slow
@pytest.mark.timeout(DEMO_SECONDS)
def test_the_demo_sees_what_is_in_pictures_it_was_never_trained_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "croc_cli", "demo", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEMO_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    run = RunDir(tmp_path / "run")
    scores = json.loads(run.evaluation().results_file.read_text())["benchmarks"]["scenes"]["parts"]
    assert scores["mean_accuracy"] >= 0.8
    for kind, accuracy in scores["accuracy"].items():
        assert accuracy >= scores["best_blind"][kind] + 0.15, kind
    assert scores["caption_recall"] >= 0.8
    health = read_json(run.stage("reconstruct").summary_file)["health"]
    assert health["explained_share"] > 0
    assert health["pool_window_share"] >= 0.9
    assert "one held-out picture" in done.stdout
