from pathlib import Path

import pytest
import torch
from PIL import Image

from croc_cli.checkpoint.load import LoadedModel, load_for_inference
from croc_cli.data.image import PathImage
from croc_cli.eval.attention import AttentionRecorder, attend_to_picture, recorded, token_kinds
from tests.tiny import NUM_VISUAL_TOKENS, make_tiny_llava


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_for_inference(make_tiny_llava(tmp_path_factory.mktemp("model")))


def prompt(model: LoadedModel) -> list[int]:
    image = model.llava.config.image_token_id
    words = model.processor.tokenizer("what is this", add_special_tokens=False).input_ids
    return [words[0], *[image] * NUM_VISUAL_TOKENS, *words]


@pytest.mark.parametrize("block_elements", [1, 150, 1 << 24])
def test_rows_computed_in_blocks_are_those_of_the_whole_matrix(model: LoadedModel, block_elements: int) -> None:
    language_model = model.llava.model.language_model
    embeds = torch.randn(1, 9, language_model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    recorder = AttentionRecorder(4, block_elements=block_elements)
    with torch.inference_mode():
        with recorded(language_model, recorder):
            hidden = language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        before = language_model.config._attn_implementation
        language_model.config._attn_implementation = "eager"
        try:
            whole = language_model(inputs_embeds=embeds, use_cache=False, output_attentions=True)
        finally:
            language_model.config._attn_implementation = before
    expected = torch.stack(whole.attentions).mean(dim=(0, 2))[0, -4:]
    torch.testing.assert_close(recorder.mean(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden, whole.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert recorder.num_layers == language_model.config.num_hidden_layers


def test_the_kernel_is_the_models_own_again_afterwards(model: LoadedModel) -> None:
    language_model = model.llava.model.language_model
    before = language_model.config._attn_implementation
    with pytest.raises(RuntimeError, match="stop"), recorded(language_model, AttentionRecorder(1)):
        raise RuntimeError("stop")
    assert language_model.config._attn_implementation == before


def test_an_answers_rows_add_up_to_one_and_see_nothing_later(model: LoadedModel, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    found = attend_to_picture(model, prompt(model), PathImage(tmp_path / "a.png"), max_new_tokens=5)
    rows, length = found.weights.shape
    assert length == len(found.kinds)
    assert 1 <= rows <= 5
    torch.testing.assert_close(found.weights.sum(dim=1), torch.ones(rows))
    assert bool((found.weights.triu(diagonal=length - rows + 1) == 0).all())
    assert found.kinds.count("v") == NUM_VISUAL_TOKENS
    assert found.kinds[0] == "b"
    assert len(found.instruction) == found.kinds.count("i")


def test_kinds_tell_what_stands_before_the_picture_and_after_it() -> None:
    assert token_kinds([1, 9, 9, 4, 5], 9, num_answer=2) == "bvviiaa"
