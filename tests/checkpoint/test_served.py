"""What vLLM expects of a LLaVA folder (vllm 0.33, model_executor/models: llava.py and clip.py), and what is saved."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaConfig

from croc_cli.checkpoint.convert import ConvertRequest, convert
from croc_cli.checkpoint.metadata import CheckpointMetadata
from croc_cli.checkpoint.save import save_checkpoint
from tests.checkpoint.originals import make_original
from tests.tiny import make_tiny_model, make_tiny_parts, make_tiny_processor
from tests.worker import harness

MAPPED = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}
"""vLLM's renaming of what newer transformers saves; other names are taken as they are."""
MODULES = (
    "language_model.model.embed_tokens.",
    "language_model.model.layers.",
    "language_model.model.norm.",
    "language_model.lm_head.",
    "multi_modal_projector.linear_1.",
    "multi_modal_projector.linear_2.",
    "vision_tower.vision_model.embeddings.",
    "vision_tower.vision_model.encoder.layers.",
    "vision_tower.vision_model.pre_layrnorm.",
    "vision_tower.vision_model.post_layernorm.",
)
"""Where vLLM's modules have weights; a name that leads elsewhere stops the loading."""


def saved_by_training(folder: Path) -> Path:
    return save_checkpoint(
        folder / "step-00000001",
        llava=make_tiny_model(),
        processor=make_tiny_processor(),
        metadata=CheckpointMetadata(stage="finetune", step=1),
        recipe_yaml="name: tiny\n",
    )


def saved_by_converting(folder: Path) -> Path:
    source = make_original(folder / "original")
    return convert(ConvertRequest(str(source), folder / "stock"), say=lambda _: None)


def saved_under_zero3(folder: Path) -> Path:
    harness.make_data(folder)
    make_tiny_parts(folder)
    recipe = harness.make_recipe(folder, finetune={"zero_stage": 3, "max_steps": 1})
    checkpoint = harness.train(recipe, "finetune", folder / "run", start=None).latest_checkpoint()
    assert checkpoint is not None
    return checkpoint


@pytest.mark.parametrize("save", [saved_by_training, saved_under_zero3, saved_by_converting])
def test_names_and_config_are_those_that_vllm_loads(save, tmp_path: Path) -> None:
    folder = save(tmp_path)
    found = set()
    for name in load_file(folder / "model.safetensors"):
        mapped = next((new + name[len(old) :] for old, new in MAPPED.items() if name.startswith(old)), name)
        found.add(next((module for module in MODULES if mapped.startswith(module)), mapped))
    assert found == set(MODULES)

    config, processor = LlavaConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlavaForConditionalGeneration"]
    assert config.image_token_index == processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    assert config.vision_config.model_type in ("clip_vision_model", "siglip_vision_model")
    assert isinstance(config.vision_feature_layer, int)
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    class_token = 1 if config.vision_config.model_type == "clip_vision_model" else 0
    dropped = {"default": 1, "full": 0}[config.vision_feature_select_strategy]
    assert patches + class_token - dropped == 16
    assert processor.patch_size == config.vision_config.patch_size
