"""The shipped backbones: stock, small, and the LLM alone answers what it is asked."""

from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPVisionModel, LlamaForCausalLM

from croc_cli.demo.draw import draw_scene
from croc_cli.demo.pretrain.backbones import BACKBONES, LLM, VISION_TOWER
from croc_cli.demo.pretrain.gates import measure_gates
from croc_cli.demo.pretrain.tower import draw_pixels, normalise
from croc_cli.demo.scenes import COLOURS, PLACES, SHAPES, sample_scene

MAX_BYTES = 12_000_000


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(LLM)


@pytest.fixture(scope="module")
def llm() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(LLM).eval()


def test_the_backbones_take_at_most_twelve_megabytes() -> None:
    assert sum(file.stat().st_size for file in BACKBONES.rglob("*") if file.is_file()) <= MAX_BYTES


def test_they_load_as_float32_without_being_told(llm: LlamaForCausalLM) -> None:
    assert llm.dtype == torch.float32
    assert CLIPVisionModel.from_pretrained(VISION_TOWER).dtype == torch.float32
    assert not llm.config.tie_word_embeddings


def test_every_word_of_a_scene_is_one_token_and_any_text_survives(tokenizer: Any) -> None:
    for word in (*SHAPES, *COLOURS, *sum(PLACES, ()), "yes", "no", "three"):
        assert len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1
    text = "Ça va? 你好  naïve\tTab 123"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("<image>", add_special_tokens=False)["input_ids"]) == 1


def test_the_saved_processor_does_what_the_tower_was_trained_with() -> None:
    scene = sample_scene(0, "test", 0)
    processor = AutoImageProcessor.from_pretrained(VISION_TOWER)
    processed = processor(draw_scene(scene), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processed, normalise(draw_pixels([scene])), atol=1e-5, rtol=0)


def test_the_tower_gives_one_token_per_patch() -> None:
    tower = CLIPVisionModel.from_pretrained(VISION_TOWER)
    with torch.no_grad():
        states = tower(normalise(draw_pixels([sample_scene(0, "test", 0)])), output_hidden_states=True).hidden_states
    assert states[-2].shape == (1, 37, 128)


@pytest.mark.parametrize("form", ["objects", "grid"])
def test_the_llm_alone_answers_about_scenes_it_is_given_without_a_picture(
    form: Any, llm: LlamaForCausalLM, tokenizer: Any
) -> None:
    shares = measure_gates(llm, tokenizer, num_scenes=120, seed=11, forms=(form,))[form]
    assert min(shares.values()) >= 0.95, shares


def test_the_llm_alone_answers_about_scenes_in_running_text(llm: LlamaForCausalLM, tokenizer: Any) -> None:
    shares = measure_gates(llm, tokenizer, num_scenes=40, seed=11, forms=("words",))["words"]
    assert min(shares.values()) >= 0.8, shares
    assert sum(shares.values()) / len(shares) >= 0.93, shares
