from pathlib import Path

import pytest

from croc_cli.recipe.load import load_recipe
from tests.recipe.recipes import child, errors_of

LLM = "HuggingFaceTB/SmolLM2-135M-Instruct"  # 30 layers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "reconstruct: {mask: {range: [0, 0]}}",
            "reconstruct.mask.range: 0 masks no token, so there is nothing to reconstruct; the next that fits is"
            " 0.01 (or reconstruct.objectives.reconstruction_weight: 0, or scope: all)",
        ),
        (
            "reconstruct: {mask: {range: [0.5, 0.25]}}",
            "reconstruct.mask.range: [0.5, 0.25] begins with the higher end; write [0.25, 0.5]",
        ),
        (
            "reconstruct: {mask: {shape: block, block_scale: [0.2, 0.15]}}",
            "reconstruct.mask.block_scale: [0.2, 0.15] begins with the higher end; write [0.15, 0.2]",
        ),
        (
            "reconstruct: {mask: {shape: block, block_aspect: [2, 0.5]}}",
            "reconstruct.mask.block_aspect: [2.0, 0.5] begins with the higher end; write [0.5, 2]",
        ),
        (
            "reconstruct: {mask: {range: [0.25, 0.5], schedule: cosine}}",
            "reconstruct.mask.range: a share that each sample draws follows no schedule; leave it out, or set"
            " schedule: constant",
        ),
        (
            "reconstruct: {mask: {start: 0.5}}",
            "reconstruct.mask.start: has no effect with a constant schedule; set schedule: cosine, or leave it out",
        ),
        *(
            (
                f"reconstruct: {{reconstruction: {{layer: {layer}, head: linear}}, learning_rate: {{head: 1e-4}}}}",
                f"reconstruct.reconstruction.layer: {layer} is none of the 30 hidden states of {LLM}'s layers; it must"
                " be from 1 to 30, or from -30 to -1",
            )
            for layer in (31, -31)
        ),
        (
            "model: {llm: some/llm}\nreconstruct: {reconstruction: {layer: 0, loss: cosine}}",
            "reconstruct.reconstruction.layer: 0 is what enters the LLM, before any layer; 1 is the first layer's, -1"
            " the last",
        ),
    ],
)
def test_masks_and_layers_that_do_not_fit_are_told_with_what_would(tmp_path: Path, text: str, expected: str) -> None:
    [error] = errors_of(child(tmp_path, text))
    assert error.partition(": ")[2] == expected


@pytest.mark.parametrize(
    "text",
    [
        "reconstruct: {mask: {schedule: cosine}}",
        "reconstruct: {mask: {schedule: cosine, start: 0.75, ratio: 0}}",
        "reconstruct: {mask: {range: [0.5, 0.5]}}",
        "reconstruct: {mask: {shape: block, block_scale: [0.3, 0.3], block_aspect: [1, 1]}}",
        "reconstruct: {reconstruction: {layer: 30, loss: cosine}}",
        "reconstruct: {reconstruction: {layer: -30, loss: cosine}}",
        "model: {llm: some/llm}\nreconstruct: {reconstruction: {layer: 99, loss: cosine}}",
    ],
)
def test_masks_and_layers_that_fit_pass_without_a_note(tmp_path: Path, text: str) -> None:
    assert load_recipe(str(child(tmp_path, text)), environ={}).notes == ()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "reconstruct: {mask: {range: [0.1, 0.9]}, pool: {size: 50}}",
            "reconstruct.pool.size: 50 is smaller than the 176 masked tokens of an image, so each pool token may be"
            " used 4 times in it",
        ),
        (
            "reconstruct: {mask: {block_scale: [0.1, 0.2]}}",
            "reconstruct.mask.block_scale: has no effect, as shape is random",
        ),
        (
            "reconstruct: {reconstruction: {loss: cosine, smooth_l1_beta: 1}}",
            "reconstruct.reconstruction.smooth_l1_beta: has no effect, as loss is cosine",
        ),
        (
            "reconstruct: {reconstruction: {loss: cosine, per_dimension: false}}",
            "reconstruct.reconstruction.per_dimension: has no effect, as loss is cosine",
        ),
        (
            "reconstruct: {reconstruction: {layer: 15}}",
            "reconstruct.reconstruction.layer: only the last hidden state has the length of a norm, which loss l2"
            " measures; head linear, or loss cosine, does without it",
        ),
    ],
)
def test_what_has_no_effect_or_is_perhaps_not_meant_is_noted(tmp_path: Path, text: str, note: str) -> None:
    assert load_recipe(str(child(tmp_path, text)), environ={}).notes == (note,)


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        ("{ratio: 0.5}", 98),
        ("{ratio: 0.5, schedule: cosine}", 98),
        ("{ratio: 0.25, schedule: cosine, start: 0.5}", 98),
        ("{range: [0.1, 0.5]}", 98),
        ("{range: [0, 0.001]}", 1),
    ],
)
def test_plans_count_with_the_most_that_is_masked(tmp_path: Path, mask: str, most: int) -> None:
    recipe = load_recipe(str(child(tmp_path, f"reconstruct: {{mask: {mask}}}")), environ={}).recipe
    assert recipe.reconstruct.mask.num_masked(196) == most
