"""LLM families and vision towers: each is set up right, trains a step, and reloads in stock transformers as it was."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.image import process_images
from croc_cli.data.sample import Turn
from croc_cli.errors import UsageError
from croc_cli.names import IGNORE_INDEX
from croc_cli.train.trainer import Trainer
from tests.tiny import make_tiny_parts, make_tiny_tokenizer
from tests.worker import harness

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """How an LLM family differs from another, as far as it matters here.

    Args:
        config: Its config class.
        tied: Embeddings and LM head are one.
        spare: Rows of the vocabulary beyond the tokenizer; 0 leaves no room for an image token.
        template: Chat template of its tokenizer; None has croc's vicuna_v1 used.
        tokens: Special tokens of its tokenizer; the last one ends a turn and is its EOS.
        pads: Whether its tokenizer has a padding token.
        has_bos: Whether its tokenizer begins with a token of its own.
        tower: `clip` or `siglip`.
        base: Its EOS is not the token that ends a turn, as in models before instruction tuning.
    """

    config: Any
    tied: bool = False
    spare: int = 0
    template: str | None = None
    tokens: tuple[str, ...] = ()
    pads: bool = True
    has_bos: bool = True
    tower: str = "clip"
    more: dict[str, Any] = field(default_factory=dict)
    base: bool = False


FAMILIES = {
    "llama": Family(LlamaConfig, pads=False),
    "llama-siglip": Family(LlamaConfig, tower="siglip"),
    "mistral": Family(MistralConfig, template=MISTRAL, more={"sliding_window": 300}),
    "qwen2": Family(Qwen2Config, True, 8, CHATML, ("<|im_start|>", "<|im_end|>"), pads=False, has_bos=False, base=True),
    "qwen3": Family(Qwen3Config, True, 0, CHATML, ("<|im_start|>", "<|im_end|>"), has_bos=False, tower="siglip"),
    "gemma": Family(GemmaConfig, True, 0, GEMMA, ("<start_of_turn>", "<end_of_turn>")),
}


def make_llm(folder: Path, family: Family) -> Path:
    tokenizer = make_tiny_tokenizer(image_token=False)
    tokenizer.add_special_tokens({"additional_special_tokens": list(family.tokens)})
    tokenizer.eos_token = family.tokens[-1] if family.tokens and not family.base else "</s>"
    tokenizer.chat_template = family.template
    if not family.pads:
        tokenizer.pad_token = None
    if not family.has_bos:
        tokenizer.bos_token = None
        tokenizer.backend_tokenizer.post_processor = None
    tokenizer.padding_side = "left"
    torch.manual_seed(0)
    config = family.config(
        **SIZES,
        **family.more,
        vocab_size=len(tokenizer) + family.spare,
        tie_word_embeddings=family.tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_siglip(folder: Path) -> Path:
    """Write a SigLIP tower of 4 × 4 patches, and half a patch that it leaves out."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=60, patch_size=14)).save_pretrained(folder)
    SiglipImageProcessorPil(
        size={"height": 60, "width": 60}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
    ).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Trained:
    """A family's model after one step: as it was in the trainer, and as stock transformers opens its checkpoint."""

    name: str
    family: Family
    folder: Path
    checkpoint: Path
    template: Literal["vicuna_v1", "chat_template"]
    trains_tower: bool
    llava: Any
    step: Any
    stock: Any
    processor: Any

    def weights(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the weights before and after the step."""
        started = self.folder / "run" / "init" / "model.safetensors"
        return load_file(started), load_file(self.checkpoint / "model.safetensors")

    def question(self) -> Any:
        """Return what the saved processor makes of a picture and a question."""
        picture = Image.effect_noise((90, 40), 80).convert("RGB")
        question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
        text = self.processor.apply_chat_template(question, add_generation_prompt=True)
        bos = self.processor.tokenizer.bos_token
        has_bos = bool(bos) and text.startswith(bos)
        return self.processor(images=picture, text=text, return_tensors="pt", add_special_tokens=not has_bos)


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train one step of finetune with a family's LLM."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    family = FAMILIES[name]
    harness.make_data(folder)
    tower, _ = make_tiny_parts(folder)
    tower = make_siglip(folder / "siglip") if family.tower == "siglip" else tower
    llm = make_llm(folder / name, family)
    template: Literal["vicuna_v1", "chat_template"] = "chat_template" if family.template else "vicuna_v1"
    aspect = "square" if name == "gemma" else "pad"
    stage = {"max_steps": 1, "template": template, "image_aspect": aspect, "optimizer": {"warmup_ratio": 0.0}}
    trains_tower = name in ("llama", "llama-siglip")
    if trains_tower:
        stage["learning_rate"] = {"vision_tower": 1e-3, "projector": 1e-3, "llm": 1e-3}
    recipe = harness.make_recipe(
        folder, model={"llm": str(llm), "vision_tower": str(tower)}, finetune=stage, align={"enabled": False}
    )
    seen: dict[str, Any] = {}
    run = Trainer.run

    def keep(trainer: Trainer, steps: Any) -> Any:
        steps = list(steps)
        seen.update(llava=trainer.module.model.llava, step=steps[0])
        return run(trainer, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run", keep)
        checkpoint = harness.train(recipe, "finetune", folder / "run", start=None).latest_checkpoint()
    assert checkpoint is not None
    stock = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    llava, step = seen["llava"].eval(), seen["step"]
    return Trained(name, family, folder, checkpoint, template, trains_tower, llava, step, stock, processor)


def test_the_image_token_has_a_row_and_padding_is_on_the_right(trained: Trained) -> None:
    tokenizer = trained.processor.tokenizer
    assert tokenizer.padding_side == "right"
    assert tokenizer.pad_token is not None
    assert trained.stock.config.image_token_id == tokenizer.convert_tokens_to_ids("<image>")
    assert trained.stock.config.image_token_id < trained.stock.get_input_embeddings().weight.shape[0]


def test_embeddings_are_tied_where_they_were(trained: Trained) -> None:
    is_tied = trained.stock.lm_head.weight is trained.stock.get_input_embeddings().weight
    assert is_tied is trained.family.tied


def test_stock_generation_ends_where_training_ended_answers(trained: Trained) -> None:
    ends = trained.stock.generation_config.eos_token_id
    rows = [row for batch in trained.step for row in batch.labels if any(row >= 0)]
    last = {int(row[row != IGNORE_INDEX][-1]) for row in rows}
    assert last <= set(ends if isinstance(ends, list) else [ends])


def test_the_saved_processor_writes_the_prompt_of_training(trained: Trained) -> None:
    encoder = ConversationEncoder(
        trained.processor.tokenizer,
        template=trained.template,
        image_token_id=trained.stock.config.image_token_id,
        num_visual_tokens=16,
        max_length=512,
    )
    prompt = encoder.encode_prompt([Turn("human", "<image>\nWhat is it?")])
    assert trained.question()["input_ids"][0].tolist() == prompt


def test_the_saved_processor_makes_the_pixels_of_training(trained: Trained) -> None:
    rows = json.loads((trained.folder / "data.json").read_text())
    samples = [rows[int(name.split("#")[1])] for name in trained.step[0].sample_ids]
    name = next(row["image"] for row in samples if "image" in row)
    original = Image.open(trained.folder / "images" / name).convert("RGB")
    processor = AutoProcessor.from_pretrained(trained.checkpoint, backend="pil").image_processor
    assert torch.equal(process_images([original], processor)[0], trained.step[0].pixel_values[0])


def test_the_saved_model_is_the_trained_one_to_the_last_bit(trained: Trained) -> None:
    inputs = trained.question()
    with torch.no_grad():
        assert torch.equal(trained.stock(**inputs).logits, trained.llava(**inputs).logits)


def test_the_llm_moved_and_the_tower_where_it_is_trained(trained: Trained) -> None:
    started, saved = trained.weights()
    assert any(not torch.equal(started[key], saved[key]) for key in started if "language_model" in key)
    moved = {key for key in started if "vision_tower" in key and not torch.equal(started[key], saved[key])}
    behind = ("layers.2.", "post_layernorm", ".head.")
    trainable = {key for key in started if "vision_tower" in key and not any(part in key for part in behind)}
    expected = trainable if trained.trains_tower else set()
    # softmax cannot see the biases of keys: their gradients are rounding errors alone
    assert {key for key in moved if "k_proj.bias" not in key} == {key for key in expected if "k_proj.bias" not in key}


def test_an_llm_that_caps_its_logits_is_refused_since_stock_llava_would_not(tmp_path: Path) -> None:
    from transformers import Gemma2Config

    from croc_cli.model.build import assemble
    from tests.tiny import make_tiny_processor

    tower, _ = make_tiny_parts(tmp_path)
    capped = Family(Gemma2Config, tied=True, more={"final_logit_softcapping": 0.5, "sliding_window": 64})
    llm = make_llm(tmp_path / "gemma2", capped)
    with pytest.raises(UsageError, match=r"\(gemma2\) changes its logits in a way that a stock LLaVA does not"):
        assemble(
            tower,
            llm,
            tmp_path / "out",
            seed=0,
            vision_feature_layer=-2,
            image_processor=make_tiny_processor().image_processor,
            chat_template=None,
            dtype=torch.float32,
        )


@pytest.mark.parametrize("damaged", ["tower", "llm"])
def test_a_damaged_part_is_named_instead_of_drawn_at_random(damaged: str, tmp_path: Path) -> None:
    from croc_cli.model.build import assemble
    from tests.tiny import make_tiny_processor

    parts = dict(zip(("tower", "llm"), make_tiny_parts(tmp_path), strict=True))
    file = parts[damaged] / "model.safetensors"
    weights = load_file(file)
    weights.pop(next(name for name in sorted(weights) if "layers.0" in name))

    save_file(weights, file, {"format": "pt"})
    words = {"tower": "vision tower", "llm": "LLM"}[damaged]
    with pytest.raises(UsageError, match=f"the {words} in .* is incomplete: weights are missing"):
        assemble(
            parts["tower"],
            parts["llm"],
            tmp_path / "out",
            seed=0,
            vision_feature_layer=-2,
            image_processor=make_tiny_processor().image_processor,
            chat_template=None,
            dtype=torch.float32,
        )
