"""Damaged checkpoints: each answered by one line that names the file, and of weights the tensor."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from croc_cli.checkpoint.load import load_for_inference
from croc_cli.checkpoint.metadata import CheckpointMetadata
from croc_cli.checkpoint.validate import validate_checkpoint
from croc_cli.checkpoint.weights import read_model
from croc_cli.errors import UsageError
from croc_cli.run_dir import sha256_of
from tests.tiny import make_tiny_llava

NORM = "language_model.model.norm.weight"
PROJECTOR = "multi_modal_projector.linear_1.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("sound") / "m")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "m"))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def set_config(folder: Path, value: Any, *path: str, file: str = "config.json") -> None:
    values = json.loads((folder / file).read_text())
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / file).write_text(json.dumps(values))


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        validate_checkpoint(folder)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message.removeprefix(f"{folder}")


def test_a_sound_checkpoint_passes(folder: Path) -> None:
    assert validate_checkpoint(folder).metadata == CheckpointMetadata()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_no_numbers_are_named(folder: Path, value: float, dtype: torch.dtype) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights |= {name: tensor.to(dtype) for name, tensor in weights.items()}
        weights[NORM][33] = value

    change_weights(folder, spoil)
    assert refusal(folder) == f"/model.safetensors: {NORM} holds 1 value that is NaN or infinite"


def test_zeros_are_named_and_a_zero_bias_is_not(folder: Path) -> None:
    change_weights(folder, lambda weights: weights["multi_modal_projector.linear_1.bias"].zero_())
    validate_checkpoint(folder)
    change_weights(folder, lambda weights: weights[PROJECTOR].zero_())
    assert refusal(folder) == f"/model.safetensors: {PROJECTOR} holds nothing but zeros"


def test_integers_for_floats_are_named(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({NORM: torch.ones(64, dtype=torch.int32)}))
    message = "model.language_model.norm.weight holds integers, expected floats"
    assert refusal(folder) == f"/model.safetensors: {message}"


@pytest.mark.parametrize(
    ("value", "path", "said"),
    [
        ("64", ("text_config", "hidden_size"), "/config.json cannot be opened: .*hidden_size.* expected int, got str"),
        (None, ("text_config", "rms_norm_eps"), "/config.json"),
        (0, ("text_config", "num_attention_heads"), "/config.json .*modulo by zero"),
        (-3, ("text_config", "vocab_size"), "/config.json describes no model: .*negative|/generation_config.json"),
        ("nope", ("text_config", "hidden_act"), "/config.json describes no model: 'nope'"),
        (10**6, ("text_config", "num_hidden_layers"), "/config.json: llama has 1,000,000 layers, and .* weights are"),
        (3, ("text_config", "rope_parameters"), "/config.json cannot be opened: .*rope_parameters"),
        ({"quant_method": "awq"}, ("quantization_config",), "/config.json: quantization_config asks for 'awq', which"),
        (5, ("quantization_config",), "/config.json"),
        (10**9, ("image_token_id",), ": the tokenizer's image token is .*, and config.json's image_token_id is 10"),
        (10, ("text_config", "vocab_size"), ".*embed_tokens.weight is|: the tokenizer's size is"),
    ],
)
def test_a_config_that_describes_no_model_is_named(folder: Path, value: Any, path: Any, said: str) -> None:
    set_config(folder, value, *path)
    assert re.match(said, refusal(folder)), refusal(folder)


@pytest.mark.parametrize("value", ["</s>", 10**6, -1, [2, None], 1.5])
def test_end_tokens_that_are_none_are_named(folder: Path, value: Any) -> None:
    set_config(folder, value, "eos_token_id", file="generation_config.json")
    assert refusal(folder).startswith("/generation_config.json cannot be opened: ")


@pytest.mark.parametrize("value", ["1", None, -1, 7, True])
def test_tokens_of_an_image_that_are_no_number_are_named(folder: Path, value: Any) -> None:
    file = folder / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_additional_image_tokens": value}))
    assert "num_additional_image_tokens of the processor is" in refusal(folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"[" * 50_000])
def test_a_broken_file_of_the_processor_is_named(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    assert refusal(folder).startswith(f"/{file}")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "", 3, None])
def test_an_index_that_leaves_its_folder_is_refused(folder: Path, name: Any) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    assert refusal(folder) == f"/{index.name}: a lies in {name!r}, expected a file of the same folder"


def test_an_index_of_weights_that_its_files_lack_is_named(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*names, "more"], "model-1.safetensors")}))
    assert refusal(folder) == f"/{index.name}: more is not in model-1.safetensors"
    with pytest.raises(UsageError, match=r"index\.json: 'more' is not in model-1\.safetensors"):
        read_model(folder)


def change_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_tensors_that_overlap_are_named(folder: Path) -> None:
    def move(header: dict[str, Any]) -> None:
        header[NORM]["data_offsets"] = [place - 4 for place in header[NORM]["data_offsets"]]

    change_header(folder, move)
    assert re.match(rf"/model.safetensors: {NORM} begins at byte \d+, expected \d+", refusal(folder))


def test_a_header_that_promises_other_sizes_is_named(folder: Path) -> None:
    change_header(folder, lambda header: header[NORM].update(shape=[63]))
    assert refusal(folder) == f"/model.safetensors: {NORM} is (63,) of F32, and 256 bytes are there for it"


def test_a_pool_that_is_no_numbers_is_named(folder: Path) -> None:
    save_file({"pool.weight": torch.full((2, 3), torch.nan)}, folder / "croc_training_state.safetensors")
    assert refusal(folder).startswith("/croc_training_state.safetensors: pool.weight holds 6 values that are NaN")


def test_weights_under_a_kept_croc_json_are_not_taken_for_those_saved(folder: Path) -> None:
    file = folder / "model.safetensors"
    CheckpointMetadata(files={file.name: sha256_of(file)}).write(folder)
    load_for_inference(folder)
    change_weights(folder, lambda weights: weights[NORM].mul_(2))
    with pytest.raises(UsageError, match=r"model\.safetensors is not what was saved"):
        load_for_inference(folder)


def test_names_that_zero_3_broke_are_refused_with_the_command_that_repairs_them(folder: Path) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        for name in [name for name in weights if name.startswith("language_model.model.")]:
            weights[name.replace("language_model.model.", "language_model.model.model.")] = weights.pop(name)

    change_weights(folder, spoil)
    with pytest.raises(UsageError, match="is incomplete: 20 weights are missing") as caught:
        load_for_inference(folder)
    assert caught.value.hint == f"it was saved with wrong names, which croc repairs: croc convert {folder} DST"
