import os
from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.checkpoint.plain_pickles import only_plain_pickles
from croc_cli.errors import UsageError


class Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_that_would_run_code_is_refused_and_named(tmp_path: Path) -> None:
    file = tmp_path / "optim_states.pt"
    torch.save({"state": Harmful(tmp_path / "ran")}, file)
    with only_plain_pickles(), pytest.raises(UsageError, match=f"{file} is not opened: it holds more than tensors"):
        torch.load(file, weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_tensors_and_deepspeeds_own_classes_are_opened(tmp_path: Path) -> None:
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    torch.save({"a": torch.ones(2), "b": ZeroStageEnum.gradients, "c": fragment_address(3, 4)}, tmp_path / "file.pt")
    original = torch.load
    with only_plain_pickles():
        found = torch.load(tmp_path / "file.pt", weights_only=False)
    assert found["b"] == 2
    assert found["c"].start == 4
    assert torch.load is original
