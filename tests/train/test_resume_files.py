"""Damaged resume folders: file and reason, whatever DeepSpeed makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import UsageError
from croc_cli.train.metrics import JsonLines
from croc_cli.train.resume_files import naming_damage


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000012"
    (folder / "resume" / "engine").mkdir(parents=True)
    (folder / "resume" / "engine" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"state")
    (folder / "resume" / "trainer_state.json").write_text(json.dumps({"step": 12, "health": {}}))
    return folder


@naming_damage
def load(engine: Any, checkpoint: Path) -> str:
    if engine is not None:
        raise engine
    return checkpoint.name


def test_a_sound_folder_is_loaded(checkpoint: Path) -> None:
    assert load(None, checkpoint) == "step-00000012"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read"),
        ("[]", "holds list, expected a JSON object"),
        ('{"step": "12"}', "step is '12', expected a number from 0"),
        ('{"step": 11}', "step is 11, expected 12, as its folder says"),
        ('{"step": 12, "bad_images": null}', "bad_images is None, expected a number"),
        ('{"step": 12, "seconds": -1}', "seconds is -1, expected a number"),
        ('{"step": 12, "health": 3}', "health is 3, expected figures by name"),
    ],
)
def test_a_damaged_trainer_state_is_named(checkpoint: Path, content: str, said: str) -> None:
    (checkpoint / "resume" / "trainer_state.json").write_text(content)
    with pytest.raises(UsageError, match=rf"trainer_state\.json:? {said}"):
        load(None, checkpoint)


@pytest.mark.parametrize("error", [RuntimeError("PytorchStreamReader failed\n at x"), KeyError("module"), EOFError()])
def test_whatever_a_library_raises_names_the_folder(checkpoint: Path, error: Exception) -> None:
    with pytest.raises(UsageError, match=rf"resume cannot be resumed from: {type(error).__name__}: ") as caught:
        load(error, checkpoint)
    assert "\n" not in caught.value.message


def test_an_engines_folder_without_files_is_named(checkpoint: Path) -> None:
    next((checkpoint / "resume" / "engine").iterdir()).unlink()
    with pytest.raises(UsageError, match="engine is empty: the optimizer's state is missing"):
        load(None, checkpoint)


@pytest.mark.parametrize("line", [b"[1]", b'{"step": "x"}', b'{"step": 1', b"\xff\xfe"])
def test_a_damaged_line_of_the_metrics_is_named_unless_a_crash_cut_it(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n' + line)
    JsonLines(file).drop_after(1)
    assert file.read_text() == '{"step": 1}\n'
    file.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(UsageError, match=r"metrics\.jsonl:2 is damaged: "):
        JsonLines(file).drop_after(1)
