from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from croc_cli.model.reconstruction import build_head
from croc_cli.model.vision_tower import unused_weights
from croc_cli.recipe.facts import model_facts
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.parameters import llm_parameters, parameter_counts, tower_parameters, trained_counts
from croc_cli.recipe.schema import ModelRecipe
from tests.recipe.recipes import child

TOWER = CLIPVisionConfig(
    hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14
)
LLM: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 60,
    "max_position_embeddings": 64,
}
LLMS = [
    LlamaForCausalLM(LlamaConfig(**LLM)),
    LlamaForCausalLM(LlamaConfig(**LLM, num_key_value_heads=2, tie_word_embeddings=True)),
    LlamaForCausalLM(LlamaConfig(**LLM, head_dim=16, attention_bias=True, mlp_bias=True)),
    Qwen2ForCausalLM(Qwen2Config(**LLM, num_key_value_heads=2)),
]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("llm", LLMS, ids=["plain", "tied-grouped", "biases", "qwen2"])
def test_llm_counts_equal_transformers(tmp_path: Path, llm: nn.Module) -> None:
    llm.config.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    facts = model_facts(ModelRecipe(vision_tower="-", llm=str(tmp_path))).llm
    assert facts is not None
    assert llm_parameters(facts) == count(llm)


def test_siglips_count_equals_transformers_and_its_odd_pixels_are_no_error(tmp_path: Path) -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
    tower = SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=60, patch_size=14))
    tower.config.save_pretrained(tmp_path)
    recipe = load_recipe(str(child(tmp_path, f"model: {{vision_tower: {tmp_path}}}\n")), environ={}).recipe
    facts = model_facts(recipe.model).tower
    assert facts is not None
    assert facts.num_visual_tokens == 16
    assert tower_parameters(facts) == count(tower)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("layer", [-1, -2, 1, 0])
def test_the_trained_count_of_a_tower_leaves_out_what_no_visual_token_depends_on(
    tmp_path: Path, kind: str, layer: int
) -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}[kind](**sizes, image_size=56, patch_size=14)
    tower = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}[kind](config)
    config.save_pretrained(tmp_path)
    text = f"""\
    model: {{vision_tower: {tmp_path}, vision_feature_layer: {layer}}}
    finetune: {{learning_rate: {{vision_tower: 2e-6}}}}
    """
    recipe = load_recipe(str(child(tmp_path, text)), environ={}).recipe
    unused = unused_weights(tower, layer)
    trained = sum(weight.numel() for name, weight in tower.named_parameters() if name not in unused)
    counts = parameter_counts(recipe, "finetune")
    assert trained_counts(recipe, "finetune", counts) == {**counts, "vision_tower": trained}
    assert trained_counts(recipe, "align", counts) == {"projector": counts["projector"]}


def test_the_nano_towers_count_equals_transformers() -> None:
    facts = model_facts(ModelRecipe(vision_tower="builtin:nano", llm="-")).tower
    assert facts is not None
    folder = Path(__file__).parents[2] / "croc_cli" / "demo" / "backbones" / "vision_tower"
    assert tower_parameters(facts) == count(CLIPVisionModel(CLIPVisionConfig.from_pretrained(folder)))


@pytest.mark.parametrize("head", ["none", "linear", "bert"])
def test_every_group_of_stage_1_5_equals_the_real_model(tmp_path: Path, head: str) -> None:
    TOWER.save_pretrained(tmp_path / "tower")
    LLMS[0].config.save_pretrained(tmp_path / "llm")
    text = f"""\
    model: {{vision_tower: {tmp_path}/tower, llm: {tmp_path}/llm}}
    align: {{max_length: 64}}
    reconstruct: {{max_length: 64, pool: {{size: 10}}, reconstruction: {{head: {head}}}}}
    finetune: {{max_length: 64}}
    """
    recipe = load_recipe(str(child(tmp_path, text)), environ={}).recipe
    llava = LlavaForConditionalGeneration(LlavaConfig(vision_config=TOWER, text_config=LLMS[0].config))
    expected = {
        "vision_tower": count(llava.model.vision_tower),
        "projector": count(llava.model.multi_modal_projector),
        "llm": count(llava.model.language_model) + count(llava.lm_head),
        "token_pool": 10 * 32,
    }
    module = build_head(head, dim=32, num_visual=16, dropout=0.1)
    if module is not None:
        expected["head"] = count(module)
    assert parameter_counts(recipe, "reconstruct") == expected
    assert parameter_counts(recipe, "align") == {key: expected[key] for key in ("vision_tower", "projector", "llm")}


def test_the_papers_model_has_its_known_size() -> None:
    counts = parameter_counts(load_recipe("croc-7b", environ={}).recipe, "reconstruct")
    assert counts == {
        "vision_tower": 303_507_456,
        "projector": 20_979_712,
        "llm": 6_738_415_616,
        "token_pool": 8_388_608,
    }


def test_groups_whose_sizes_are_not_at_hand_are_left_out(tmp_path: Path) -> None:
    recipe = load_recipe(str(child(tmp_path, "model: {vision_tower: some/tower, llm: some/llm}")), environ={}).recipe
    assert parameter_counts(recipe, "reconstruct") == {}


@pytest.mark.parametrize(
    ("llm", "billions"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7.616),
        ("Qwen/Qwen2-7B-Instruct", 7.616),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.494),
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8.030),
    ],
)
def test_victors_parts_have_the_parameters_of_their_pages(llm: str, billions: float) -> None:
    facts = model_facts(ModelRecipe(vision_tower="google/siglip2-so400m-patch14-384", llm=llm))
    assert facts.tower is not None
    assert facts.llm is not None
    assert (facts.num_visual_tokens, tower_parameters(facts.tower)) == (729, 428_225_600)
    assert llm_parameters(facts.llm) == pytest.approx(billions * 1e9, rel=1e-3)
