from dataclasses import replace

import pytest

from croc_cli.estimate.memory import Choices, MemoryParts, stage_memory
from croc_cli.names import StageName
from croc_cli.recipe.facts import model_facts
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.parameters import parameter_counts

CHOICES = Choices(
    zero_stage=0, num_ranks=8, micro_size=4, checkpointing=True, offload="none", on_gpu=True, gradient_bytes=2
)


def memory(stage: StageName = "finetune", *, length: int = 2048, **changes: object) -> MemoryParts:
    recipe = load_recipe("croc-7b", environ={}).recipe
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
    again, kept = memory().activations, memory(checkpointing=False).activations
    assert again < kept / 5
    assert memory(micro_size=8).activations == pytest.approx(2 * again, rel=1e-6)


def test_a_frozen_llm_keeps_no_inputs_of_its_matrices() -> None:
    assert memory("align", checkpointing=False).activations < 0.75 * memory(checkpointing=False).activations
    assert memory("align").gradients < memory().gradients / 100


def test_mixed_attention_keeps_a_mask_and_the_pool_its_costs() -> None:
    more = memory("reconstruct").activations - memory("finetune").activations
    assert more == 4 * 2048**2 * 3 + 4 * 432 * 2048 * 4


def test_offloaded_state_leaves_the_gpu() -> None:
    assert memory(zero_stage=3, offload="optimizer").optimizer == 0
    assert memory(zero_stage=3, offload="all").weights == 0
