import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from croc_cli.errors import CrocError, RunError, UsageError
from croc_cli.model.build import _opened_tokenizer
from croc_cli.model.opening import opening
from croc_cli.model.vision_tower import load_tower, open_whole
from tests.tiny import make_tiny_parts


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    return make_tiny_parts(tmp_path)


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def open_llm(folder: Path) -> None:
    open_whole(AutoModelForCausalLM, folder, what="LLM", dtype=torch.float32)


@pytest.mark.parametrize("value", ["64", [64], None, 1.5])
def test_sizes_of_other_types_in_a_config_are_named(parts: tuple[Path, Path], value: Any) -> None:
    tower, llm = parts
    change(tower / "config.json", hidden_size=value)
    change(llm / "config.json", hidden_size=value)
    with pytest.raises(UsageError, match=f"the vision tower in {tower} cannot be opened: .*hidden_size"):
        load_tower(tower, torch.float32)
    with pytest.raises(UsageError, match=f"the LLM in {llm} cannot be opened: .*hidden_size"):
        open_llm(llm)


def test_a_tokenizer_that_its_library_cannot_parse_is_named(parts: tuple[Path, Path]) -> None:
    change(parts[1] / "tokenizer.json", version=0)
    with pytest.raises(UsageError, match="the LLM's tokenizer in .* cannot be opened: .*expected a string"):
        _opened_tokenizer(parts[1])


@pytest.mark.parametrize(
    ("value", "said"), [(torch.nan, "1 value that is NaN or infinite"), (0.0, "nothing but zeros")]
)
def test_weights_of_parts_that_are_no_numbers_are_named(parts: tuple[Path, Path], value: float, said: str) -> None:
    for folder, name in zip(parts, ("encoder.layers.0.mlp.fc1.weight", "layers.0.mlp.up_proj.weight"), strict=True):
        weights = load_file(folder / "model.safetensors")
        [found] = [key for key in weights if key.endswith(name)]
        if value == 0:
            weights[found].zero_()
        else:
            weights[found][0, 0] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=f"the vision tower in .* holds {said}"):
        load_tower(parts[0], torch.float32)
    with pytest.raises(UsageError, match=f"the LLM in .*: model.{name} holds {said}"):
        open_llm(parts[1])


def test_errors_of_our_own_and_interruptions_pass() -> None:
    for error in (RunError("x"), KeyboardInterrupt()):
        with pytest.raises((CrocError, KeyboardInterrupt)) as caught, opening("it", hint="do"):
            raise error
        assert caught.value is error
