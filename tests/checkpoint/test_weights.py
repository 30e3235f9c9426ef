"""Weights files that are damaged, empty or hostile are named and never run."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from croc_cli.checkpoint.weights import model_files, read_file, read_model
from croc_cli.errors import UsageError
from tests.checkpoint.originals import save_shards

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(2)}


class Hostile:
    """A pickle that makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("old_form", [False, True])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(old_form: bool, tmp_path: Path) -> None:
    file, trace = tmp_path / "pytorch_model.bin", tmp_path / "it-ran"
    if old_form:
        file.write_bytes(pickle.dumps({"a.weight": Hostile(trace)}))
    else:
        torch.save({"a.weight": Hostile(trace)}, file)
    with pytest.raises(UsageError, match=r"pytorch_model\.bin holds more than tensors, and was not opened") as caught:
        read_file(file)
    assert "someone you trust" in str(caught.value.hint)
    assert not trace.exists()


def test_the_empty_projector_of_a_broken_zero3_save_is_recognised(tmp_path: Path) -> None:
    torch.save({"model.mm_projector.0.weight": torch.empty(0)}, tmp_path / "mm_projector.bin")
    with pytest.raises(UsageError, match=r"model\.mm_projector\.0\.weight is empty \(torch\.Size\(\[0\]\)\)") as caught:
        read_file(tmp_path / "mm_projector.bin")
    assert "ZeRO-3 without gathering" in str(caught.value.hint)
    assert "zero_to_fp32.py" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_that_is_cut_off_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    save_file(WEIGHTS, file) if file.suffix == ".safetensors" else torch.save(WEIGHTS, file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UsageError, match=str(file)) as caught:
        read_file(file)
    assert "fetch the file again" in str(caught.value.hint)


def test_something_else_than_weights_is_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="holds no tensors by name"):
        read_model(tmp_path)
    with pytest.raises(UsageError, match=r"has no weights: none of model\.safetensors, pytorch_model\.bin is there"):
        read_model(tmp_path / "nowhere")


def test_both_forms_of_torch_and_shards_give_the_same_weights(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "new.bin")
    torch.save(WEIGHTS, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    save_shards(WEIGHTS, tmp_path)
    for found in (read_file(tmp_path / "new.bin"), read_file(tmp_path / "old.bin"), read_model(tmp_path)):
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_shards(WEIGHTS, tmp_path)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(
        UsageError, match=r"pytorch_model-00002-of-00002\.bin is missing, which pytorch_model\.bin\.index"
    ):
        model_files(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps([]))
    with pytest.raises(UsageError, match=r"pytorch_model\.bin\.index\.json holds list, expected"):
        model_files(tmp_path)


def test_safetensors_win_over_pickles(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    assert [file.name for file in model_files(tmp_path)] == ["model.safetensors"]
