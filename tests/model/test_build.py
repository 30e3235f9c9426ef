"""A stock LLaVA assembled from its parts, and opened by a process that knows nothing of croc."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
)

from croc_cli.errors import UsageError
from croc_cli.model.build import ModelNotFound, assemble, generation_config, load_llava
from croc_cli.model.projector import CaptionedPictures
from tests.tiny import LLM_WIDTH, make_tiny_parts, make_tiny_processor, make_tiny_tokenizer, tiny_vision_config


def build(tower: Path, llm: Path, out: Path, **options: Any) -> Path:
    settings = {
        "seed": 3,
        "vision_feature_layer": -2,
        "image_processor": make_tiny_processor().image_processor,
        "chat_template": None,
        "dtype": torch.float32,
    }
    assemble(tower, llm, out, **{**settings, **options})
    return out


def open_llava(folder: Path) -> Any:
    return load_llava(folder, dtype=torch.float32, attention="sdpa")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_tiny_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def assembled(parts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(*parts, tmp_path_factory.mktemp("assembled"), chat_template="{{ messages[0]['content'] }}")


def test_tower_and_llm_go_in_unchanged(parts: tuple[Path, Path], assembled: Path) -> None:
    llava, tower = open_llava(assembled), CLIPVisionModel.from_pretrained(parts[0])
    for name, weight in tower.state_dict().items():
        assert torch.equal(weight, llava.model.vision_tower.state_dict()[name]), name
    llm = LlamaForCausalLM.from_pretrained(parts[1])
    input_ids = torch.arange(9)[None] + 5
    with torch.no_grad():
        logits, stock = llava(input_ids=input_ids).logits, llm(input_ids).logits
    torch.testing.assert_close(logits[..., : stock.shape[-1]], stock)


@pytest.mark.parametrize("tied", [False, True])
def test_the_vocabulary_grows_for_the_image_token_where_it_has_no_room(tied: bool, tmp_path: Path) -> None:
    tower, llm = make_tiny_parts(tmp_path, tie_word_embeddings=tied)
    llava = open_llava(build(tower, llm, tmp_path / "out"))

    assert llava.config.image_token_id == 320
    assert llava.config.text_config.vocab_size == 384
    assert llava.config.tie_word_embeddings is tied
    assert (llava.lm_head.weight is llava.get_input_embeddings().weight) is tied
    embeddings = llava.get_input_embeddings().weight
    torch.testing.assert_close(embeddings[320], embeddings[:320].mean(dim=0))


def test_the_vocabulary_stays_where_it_has_room_or_the_token(tmp_path: Path) -> None:
    tower, llm = make_tiny_parts(tmp_path)
    model = LlamaForCausalLM.from_pretrained(llm)
    model.resize_token_embeddings(350)
    model.save_pretrained(llm)
    assert open_llava(build(tower, llm, tmp_path / "room")).config.text_config.vocab_size == 350

    tokenizer = AutoTokenizer.from_pretrained(llm)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<x>", "<image>"]})
    tokenizer.save_pretrained(llm)
    llava = open_llava(build(tower, llm, tmp_path / "token"))
    assert (llava.config.image_token_id, llava.config.text_config.vocab_size) == (321, 350)


def test_the_projector_is_decided_by_the_seed_alone(parts: tuple[Path, Path], assembled: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    same, other = build(*parts, tmp_path / "same"), build(*parts, tmp_path / "other", seed=4)
    weights = [open_llava(folder).model.multi_modal_projector.linear_1.weight for folder in (assembled, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_another_process_opens_it_without_croc(assembled: Path) -> None:
    script = f"""
import sys, torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
processor = AutoProcessor.from_pretrained({str(assembled)!r})
model = LlavaForConditionalGeneration.from_pretrained({str(assembled)!r})
inputs = processor(images=Image.new("RGB", (80, 40)), text="<image> What?", return_tensors="pt")
print(int((inputs.input_ids == model.config.image_token_id).sum()), model.generate(**inputs, max_new_tokens=2).shape[0])
print(processor.tokenizer.padding_side, processor.tokenizer.pad_token, model.generation_config.eos_token_id)
print(processor.apply_chat_template([{{"role": "user", "content": "hello"}}]))
assert not any(name.startswith("croc") for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, cwd=assembled
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["16 1", "right <unk> 2", "hello"]


def test_nothing_in_the_folder_tells_where_it_was_made(parts: tuple[Path, Path], assembled: Path) -> None:
    texts = [file.read_text() for file in assembled.glob("*.json")]
    assert not any(str(parts[0].parent) in text for text in texts)
    assert sorted(file.suffix for file in assembled.iterdir() if file.suffix not in (".json", ".jinja")) == [
        ".safetensors"
    ]


def test_a_tokenizer_with_nothing_to_pad_with_pads_with_its_end_and_on_the_right(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    tower, llm = make_tiny_parts(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(llm)
    tokenizer.pad_token = tokenizer.unk_token = None
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(llm)
    out = build(tower, llm, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).pad_token == "</s>"
    assert AutoTokenizer.from_pretrained(out).padding_side == "right"


def test_the_tower_of_a_whole_clip_is_taken(parts: tuple[Path, Path], tmp_path: Path) -> None:
    vision = tiny_vision_config().to_dict()
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8))
    clip.save_pretrained(tmp_path / "clip")
    llava = open_llava(build(tmp_path / "clip", parts[1], tmp_path / "out"))
    own = llava.model.vision_tower.state_dict()
    taken = CLIPVisionModel.from_pretrained(tmp_path / "clip").state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in taken.items())


def test_weights_come_in_the_dtype_asked_for(parts: tuple[Path, Path], tmp_path: Path) -> None:
    folder = build(*parts, tmp_path / "out", dtype=torch.bfloat16)
    llava = load_llava(folder, dtype=torch.bfloat16, attention="eager")
    assert {parameter.dtype for parameter in llava.parameters()} == {torch.bfloat16}
    assert llava.model.language_model.config._attn_implementation == "eager"
    assert llava.model.vision_tower.config._attn_implementation == "sdpa"


def test_a_tower_that_is_neither_clip_nor_siglip_is_refused(parts: tuple[Path, Path], tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(UsageError, match="is of type 'vit', expected a CLIP or SigLIP vision tower"):
        build(tmp_path / "vit", parts[1], tmp_path / "out")


def test_a_folder_without_a_checkpoint_and_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"config\.json is missing"):
        open_llava(tmp_path)
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="is of type 'bert', expected 'llava'"):
        open_llava(tmp_path)


def test_a_projector_is_fitted_to_the_pictures_to_come(parts: tuple[Path, Path], tmp_path: Path) -> None:
    asked = []

    def pictures(needed: int, tokenizer: Any) -> list[CaptionedPictures]:
        asked.append((needed, len(tokenizer)))
        size = tiny_vision_config().image_size
        pixels = torch.randn(64, 3, size, size, generator=torch.Generator().manual_seed(1))
        return [CaptionedPictures(pixels, [[index] for index in range(64)])]

    llava = open_llava(build(*parts, tmp_path, pictures=pictures))
    words = llava.get_input_embeddings().weight
    with torch.no_grad():
        (pixels,) = (batch.pixel_values for batch in pictures(0, []))
        tokens = torch.cat(list(llava.get_image_features(pixels).pooler_output))
    torch.testing.assert_close(tokens.mean(dim=0), torch.zeros_like(tokens[0]), rtol=0, atol=1e-4)
    assert tokens.square().mean().item() == pytest.approx(words.square().mean().item() / 4, rel=1e-3)
    needed, num_words = asked[0]
    assert needed == 20 * LLM_WIDTH
    assert num_words > 64


@pytest.mark.parametrize(
    ("own", "trained", "expected"), [(None, (), 2), (7, (), [2, 7]), ([7, 5], (9,), [2, 5, 7, 9]), (2, (2,), 2)]
)
def test_every_token_that_may_end_an_answer_is_in_the_generation_config(own: Any, trained: Any, expected: Any) -> None:
    assert generation_config(make_tiny_tokenizer(), own, trained=trained).eos_token_id == expected
