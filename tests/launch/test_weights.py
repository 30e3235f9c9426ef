from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.launch.stage_state import started_elsewhere
from croc_cli.launch.weights import weights_sha256
from croc_cli.run_dir import StageDir, sha256_of, write_json


def make_start(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    write_json(folder / "croc.json", {"weights_sha256": weights_sha256(folder)})
    return folder


def test_other_weights_under_an_old_croc_json_are_seen_before_the_launch(tmp_path: Path) -> None:
    start, stage = make_start(tmp_path / "start"), StageDir(tmp_path / "finetune")
    stage.checkpoint(3).mkdir(parents=True)
    write_json(stage.checkpoint(3) / "croc.json", {"start": {"path": "", "weights_sha256": weights_sha256(start)}})
    assert not started_elsewhere(stage, start)
    (start / "model.safetensors").write_bytes(b"others!")
    assert started_elsewhere(stage, start)
    listed = {"model.safetensors": sha256_of(start / "croc.json")}
    write_json(start / "croc.json", {"files": listed})
    with pytest.raises(UsageError, match=r"model\.safetensors is not what was saved"):
        started_elsewhere(stage, start)


def test_a_folder_that_says_nothing_of_its_weights_has_no_identity(tmp_path: Path) -> None:
    assert weights_sha256(tmp_path) is None
    write_json(tmp_path / "croc.json", {"weights_sha256": "ab"})
    assert weights_sha256(tmp_path) == "ab"
