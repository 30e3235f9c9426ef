from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from croc_cli.estimate.memory import Choices, MemoryParts, _tower_activations, stage_memory
from croc_cli.names import StageName
from croc_cli.recipe.facts import TowerFacts, model_facts
from croc_cli.recipe.load import load_recipe, with_overrides
from croc_cli.recipe.parameters import parameter_counts, trained_counts
from croc_cli.recipe.recomputation import Recomputation

CHOICES = Choices(
    zero_stage=0, num_ranks=8, micro_size=4, checkpointing="full", offload="none", on_gpu=True, gradient_bytes=2
)
TOWERS = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}
CONFIGS = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}


def memory(
    stage: StageName = "finetune", *, length: int = 2048, settings: tuple[str, ...] = (), **changes: object
) -> MemoryParts:
    recipe = load_recipe("croc-7b", overrides=with_overrides({}, settings), environ={}).recipe
    chosen = replace(CHOICES, **changes)  # type: ignore[arg-type]
    counts = parameter_counts(recipe, stage)
    return stage_memory(recipe, stage, model_facts(recipe.model), counts, chosen, length=length)


def test_state_of_mixed_precision_is_sixteen_bytes_a_trained_parameter_and_two_a_frozen_one() -> None:
    recipe = load_recipe("croc-7b", environ={}).recipe
    counts = parameter_counts(recipe, "finetune")
    trained, frozen = counts["llm"] + counts["projector"], counts["vision_tower"]
    parts = memory(zero_stage=1, num_ranks=1)
    assert parts.weights + parts.gradients + parts.optimizer == 16 * trained + 2 * frozen


def test_each_zero_stage_divides_one_more_part_among_the_ranks() -> None:
    none, first, second, third = (memory(zero_stage=zero) for zero in range(4))
    assert first.optimizer * 8 == pytest.approx(memory(zero_stage=1, num_ranks=1).optimizer, rel=1e-6)
    assert first.gradients == none.gradients == pytest.approx(8 * second.gradients, rel=1e-6)
    recipe = load_recipe("croc-7b", environ={}).recipe
    counts = parameter_counts(recipe, "finetune")
    whole = 2 * (counts["vision_tower"] + counts["projector"])
    assert second.weights == none.weights == pytest.approx(8 * (third.weights - whole) + whole, rel=1e-6)
    assert none.activations == third.activations


def test_layers_that_are_computed_again_keep_their_input_alone() -> None:
    recipe = load_recipe("croc-7b", environ={}).recipe
    llm = model_facts(recipe.model).llm
    assert llm is not None
    assert llm.num_layers is not None
    again, kept = memory().activations, memory(checkpointing="none").activations
    assert again < kept / 5
    assert memory(micro_size=8).activations == pytest.approx(2 * again, rel=1e-6)


def test_a_frozen_llm_keeps_no_inputs_of_its_matrices() -> None:
    assert memory("align", checkpointing="none").activations < 0.75 * memory(checkpointing="none").activations
    assert memory("align").gradients < memory().gradients / 100


def test_mixed_attention_keeps_a_mask_and_the_pool_its_costs() -> None:
    more = memory("reconstruct").activations - memory("finetune").activations
    assert more == 4 * 2048**2 * 3 + 4 * 432 * 2048 * 4


def test_offloaded_state_leaves_the_gpu() -> None:
    assert memory(zero_stage=3, offload="optimizer").optimizer == 0
    assert memory(zero_stage=3, offload="all").weights == 0


def test_a_trained_tower_adds_its_state_and_its_layers_up_to_the_projected_one() -> None:
    settings = ("finetune.learning_rate.vision_tower=2e-6",)
    recipe = load_recipe("croc-7b", overrides=with_overrides({}, settings), environ={}).recipe
    counts = parameter_counts(recipe, "finetune")
    tower = trained_counts(recipe, "finetune", counts)["vision_tower"]
    assert counts["vision_tower"] * 22 / 24 < tower < counts["vision_tower"] * 23 / 24 + 10**7
    frozen, trained = memory(num_ranks=1), memory(num_ranks=1, settings=settings)
    assert trained.weights == frozen.weights
    assert trained.optimizer - frozen.optimizer == 16 * tower
    again = trained.activations - frozen.activations
    kept = memory(checkpointing="none", settings=settings).activations - memory(checkpointing="none").activations
    assert kept == 23 * again  # the last of 24 layers works forwards alone
    assert memory("align", settings=settings) == memory("align")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_what_a_trained_tower_keeps_is_what_autograd_keeps(kind: str, checkpointing: Recomputation) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    kept = []
    for layers in (2, 4):
        tower = TOWERS[kind](CONFIGS[kind](**sizes, num_hidden_layers=layers)).train()
        if checkpointing == "full":
            tower.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        weights = {weight.untyped_storage().data_ptr() for weight in tower.parameters()}
        seen: dict[int, Tensor] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, seen=seen: seen.setdefault(tensor.untyped_storage().data_ptr(), tensor), lambda kept: kept
        ):
            output = tower(torch.rand(2, 3, 56, 56), output_hidden_states=True)
        kept.append(sum(one.untyped_storage().nbytes() for place, one in seen.items() if place not in weights))
        del output
    facts = TowerFacts(56, 14, 64, 4, 192, has_class_token=kind == "clip")
    counted = [
        _tower_activations(facts, layers, images=2, number=4, checkpointing=checkpointing)
        + 2 * (16 + (kind == "clip")) * 4 * 64 * layers  # the hidden states, counted elsewhere
        for layers in (2, 4)
    ]
    assert counted[1] - counted[0] == pytest.approx(kept[1] - kept[0], rel=0.02)
