from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from croc_cli.errors import RunError
from tests.benchmarks.runs import write_pope
from tests.commands.croc import croc


def test_a_model_of_the_hub_is_fetched_once_with_a_bar_before_the_ranks_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, asked = tmp_path / "snapshot", []

    class Hub:
        def model_info(self, name: str, **_: Any) -> Any:
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename="model.safetensors", size=3_000_000)])

    def download(name: str, **_: Any) -> str:
        asked.append(name)
        return str(snapshot)

    def launch(plan: Any, **_: Any) -> None:
        raise RunError(f"ranks open {plan.start}")

    monkeypatch.setattr("croc_cli.model.find.HfApi", Hub)
    monkeypatch.setattr("croc_cli.model.find.snapshot_download", download)
    monkeypatch.setattr("croc_cli.checkpoint.locate.check_checkpoint", lambda _folder: None)
    monkeypatch.setattr("croc_cli.pipeline.benchmarks.run_job", launch)
    monkeypatch.setattr("croc_cli.progress.SHORT_SECONDS", 0.0)
    data = write_pope(tmp_path / "data")
    answer = croc("eval", "--model", "org/llava", "-b", "pope", "--data", str(data), "--run-dir", str(tmp_path / "run"))
    assert f"ranks open {snapshot}" in answer.err
    assert "fetching org/llava" in answer.err
    assert asked == ["org/llava"]
