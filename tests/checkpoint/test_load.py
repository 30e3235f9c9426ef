import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from croc_cli.checkpoint.load import load_for_inference
from croc_cli.checkpoint.metadata import CheckpointMetadata
from croc_cli.checkpoint.opened import load_training_state, open_stock
from croc_cli.errors import UsageError
from tests.tiny import make_tiny_llava


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return make_tiny_llava(tmp_path_factory.mktemp("stock"))


def logits_of(model):
    picture = Image.new("RGB", (60, 40), (200, 30, 30))
    inputs = model.processor(images=picture, text="USER: <image>\nWhat? ASSISTANT:", return_tensors="pt")
    return model.llava(**inputs)


def test_a_stock_folder_opens_ready_to_answer(stock):
    model = load_for_inference(stock)
    assert model.metadata == CheckpointMetadata()
    assert model.folder == stock
    assert not model.llava.training
    assert not any(parameter.requires_grad for parameter in model.llava.parameters())
    assert torch.isfinite(logits_of(model).logits).all()


def test_pictures_are_prepared_by_pil_whatever_is_installed(stock, monkeypatch):
    """With torchvision, transformers would choose a processor whose pixels differ from those of training."""
    asked = []
    original = AutoProcessor.from_pretrained

    def from_pretrained(folder, **options):
        asked.append(options)
        return original(folder, **options)

    monkeypatch.setattr(AutoProcessor, "from_pretrained", from_pretrained)
    load_for_inference(stock)
    open_stock(stock)
    assert [options.get("backend") for options in asked] == ["pil", "pil"]


def test_the_dtype_is_the_checkpoints_own_unless_given(stock):
    assert load_for_inference(stock).llava.dtype == torch.float32
    assert load_for_inference(stock, dtype=torch.bfloat16).llava.dtype == torch.bfloat16


def test_visual_tokens_have_length_one_where_the_checkpoint_asks_for_it(tmp_path):
    folder = make_tiny_llava(tmp_path / "l2")
    plain = logits_of(load_for_inference(folder))
    CheckpointMetadata(visual_norm="l2").write(folder)
    normed = logits_of(load_for_inference(folder))
    expected = plain.image_hidden_states / plain.image_hidden_states.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(normed.image_hidden_states, expected)
    assert (normed.logits - plain.logits).abs().max() > 1e-3


def test_the_training_state_comes_back_and_may_be_absent(tmp_path):
    assert load_training_state(tmp_path) == {}
    save_file({"pool.weight": torch.ones(2, 3)}, tmp_path / "croc_training_state.safetensors")
    assert load_training_state(tmp_path)["pool.weight"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_training_state_that_is_cut_off_is_named(tmp_path):
    file = tmp_path / "croc_training_state.safetensors"
    save_file({"pool.weight": torch.ones(20, 3)}, file)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UsageError, match=r"croc_training_state\.safetensors has .* bytes, its header says"):
        load_training_state(tmp_path)


def test_weights_that_the_model_needs_and_the_file_lacks_are_named(tmp_path):
    folder = make_tiny_llava(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "multi_modal_projector.linear_1.weight" in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"is incomplete: 1 weight is missing, such as .*linear_1\.weight"):
        load_for_inference(folder)


def test_weights_of_another_shape_are_named_with_the_sizes_of_tower_and_llm(tmp_path):
    folder = make_tiny_llava(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    tower, llm = (config[part]["hidden_size"] for part in ("vision_config", "text_config"))
    config["text_config"]["hidden_size"] = 128
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=rf"whose vision tower is {tower} wide and whose LLM 128") as caught:
        load_for_inference(folder)
    assert caught.value.message.startswith(f"{folder}/model.safetensors: ")
    assert re.search(rf"is \(.*{llm}.*\), expected \(.*128.*\) by config\.json", caught.value.message)
    assert "\n" not in caught.value.message


def test_an_empty_projector_of_a_broken_save_is_called_that(tmp_path):
    folder = make_tiny_llava(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "multi_modal_projector.linear_2.weight" in name)
    save_file(weights | {name: torch.zeros(0)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UsageError, match=r"linear_2\.weight is \(0,\), expected .* what a broken save under ZeRO-3 leaves"
    ):
        load_for_inference(folder)


def test_a_broken_tokenizer_is_one_line_that_names_its_file(tmp_path):
    folder = make_tiny_llava(tmp_path / "m")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer\.json cannot be read") as caught:
        load_for_inference(folder)
    assert "\n" not in caught.value.message
