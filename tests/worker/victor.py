"""ViCToR's choices for a tiny model: SigLIP, Qwen2 with its control tokens, and every setting of `victor-code-7b`."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.schema import Recipe
from tests.checkpoint.originals import QWEN_TOKENIZER
from tests.worker import harness

SIDE = 56


def make_siglip(folder: Path) -> Path:
    """Write a SigLIP tower of three layers and 4 × 4 patches, with its pooling head."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=SIDE, patch_size=14)).save_pretrained(folder)
    SiglipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def make_qwen(folder: Path) -> Path:
    """Write a Qwen2 of two layers with the tokenizer of ViCToR's golden cases."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 320}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, eos_token_id=258)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(QWEN_TOKENIZER).save_pretrained(folder)
    return folder


def victor_like(home: Path, *, stage: dict[str, Any]) -> Recipe:
    """Return `victor-code-7b` with tiny parts, data and lengths, which it writes; `stage`: more keys of every stage."""
    harness.make_data(home)
    code = load_recipe("victor-code-7b", environ={}).recipe.model_dump(mode="json")
    tiny = {"batch": {"global_size": 4, "micro_size": 2}, "max_length": 512, "max_steps": 2, "save_every": None}
    parts = {"vision_tower": str(make_siglip(home / "siglip")), "llm": str(make_qwen(home / "qwen"))}
    sections = {name: code[name] | tiny | stage for name in ("align", "reconstruct", "finetune")}
    sections["reconstruct"]["pool"] = {"size": 24, "initialisation": "normal"}
    for name in ("reconstruct", "finetune"):  # it has few steps to move
        rates = {"vision_tower": 2e-4, "projector": 1e-3, "llm": 1e-3}
        rates |= {"token_pool": 1e-2, "head": 1e-3} if name == "reconstruct" else {}
        sections[name] = sections[name] | {"learning_rate": rates}
    return harness.make_recipe(home, model=code["model"] | parts, **sections)
