from pathlib import Path
from typing import Any

import pytest

from croc_cli.names import STAGES
from croc_cli.recipe.find import MIXES_FOLDER, recipe_folder, recipe_names
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.schema import Recipe

# What each row of the paper's ablations changes in croc-7b (Table 4a to 4f, Table 5).
ABLATIONS: dict[str, dict[str, Any]] = {
    "pool-size-1": {"reconstruct.pool.size": 1},
    "pool-size-576": {"reconstruct.pool.size": 576},
    "pool-size-2048": {},
    "pool-size-4096": {"reconstruct.pool.size": 4096},
    "mask-ratio-0.00": {"reconstruct.mask.ratio": 0.0, "reconstruct.reconstruction.scope": "all"},
    "mask-ratio-0.50": {"reconstruct.mask.ratio": 0.5},
    "mask-ratio-0.75": {},
    "mask-ratio-0.90": {"reconstruct.mask.ratio": 0.9},
    "matching-nearest": {"reconstruct.matching": "nearest"},
    "matching-hungarian": {},
    "attention-unidirectional": {"reconstruct.attention": "causal"},
    "attention-mixed": {},
    "captions-brief": {
        "data.reconstruct.sources.sharegpt4v-pt.path": "sharegpt4v/blip-captions_coco_lcs_sam_1246k.json",
        "data.reconstruct.sources.sharegpt4v-pt.image_root": ".",
    },
    "captions-detailed": {},
    "no-align": {"align.enabled": False},
    "with-align": {},
    "objectives-reconstruction": {"reconstruct.objectives.caption_weight": 0.0},
    "objectives-captions": {
        "reconstruct.objectives.reconstruction_weight": 0.0,
        "reconstruct.mask.ratio": 0.0,
        "reconstruct.learning_rate.token_pool": 0.0,
    },
    "objectives-both": {},
    "objectives-data-only": {
        "reconstruct.objectives.reconstruction_weight": 0.0,
        "reconstruct.mask.ratio": 0.0,
        "reconstruct.learning_rate.token_pool": 0.0,
        "reconstruct.attention": "causal",
    },
}
OF_THE_BASELINE: dict[str, dict[str, Any]] = {
    "objectives-none": {},
    "objectives-none-more-data": {"data.align.preset": "lcs558k-croc1.5m"},
}


def flat(recipe: Recipe) -> dict[str, Any]:
    """Return the values by dotted key, without what tells recipes apart."""
    found: dict[str, Any] = {}

    def walk(values: dict[str, Any], path: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                walk(value, f"{path}{key}.")
            else:
                found[path + key] = value

    walk(recipe.model_dump(mode="json", exclude={"name", "description"}), "")
    return found


def changes(name: str, base: str) -> dict[str, Any]:
    """Return the values in which a recipe differs from another."""
    own, others = flat(load_recipe(name, environ={}).recipe), flat(load_recipe(base, environ={}).recipe)
    missing = object()
    return {key: own.get(key) for key in {**others, **own} if own.get(key, missing) != others.get(key, missing)}


@pytest.mark.parametrize(
    "file",
    [path for path in sorted(recipe_folder().rglob("*.y*ml")) if path.parent.name != MIXES_FOLDER],
    ids=lambda path: path.stem,
)
def test_every_recipe_file_passes_its_check(file: Path) -> None:
    recipe = load_recipe(str(file), environ={}).recipe
    assert recipe.name == file.stem  # so that no two share a run folder
    assert recipe.description


def test_the_named_recipes_ship() -> None:
    named = {"nano", "croc-7b", "croc-13b", "llava-1.5-7b", "released-code-7b", "croc-7b-literal", "smol"}
    assert named <= set(recipe_names())
    assert {"victor-7b", "victor-code-7b", "victor-code-clip-7b"} <= set(recipe_names())


def test_victor_departs_from_its_code_where_its_comments_say_so() -> None:
    assert changes("victor-7b", "victor-code-7b") == {
        "data.image_reading": "upright",
        "align.batch.micro_size": 8,
        "align.max_length": 2048,
        "align.trained_tokens": "answers",
        "reconstruct.pool.initialisation": "sampled",
        "reconstruct.matching_scope": "image",
        **{f"{stage}.max_length": 4096 for stage in ("reconstruct", "finetune")},
        **{f"{stage}.loss_mean": "step" for stage in STAGES},
        **{f"{stage}.control_tokens_in_text": False for stage in STAGES},
    }
    assert changes("victor-code-clip-7b", "victor-code-7b") == {
        "model.vision_tower": "openai/clip-vit-large-patch14-336",
        "model.image_resampling": "tower",
        "align.image_aspect": "square",
        "align.zero_stage": 3,
        "reconstruct.learning_rate.token_pool": 1e-3,
    }


def test_the_scripts_numbers_stand_in_victor_code_7b() -> None:
    values = flat(load_recipe("victor-code-7b", environ={}).recipe)
    expected = {
        "align.batch.global_size": 256,
        "align.learning_rate.projector": 1e-3,
        "align.optimizer.schedule": "cosine",
        "align.optimizer.warmup_ratio": 0.03,
        "align.image_aspect": "squeeze",
        "reconstruct.pool.size": 2048,
        "reconstruct.pool.initialisation": "normal",
        "reconstruct.matching": "hungarian",
        "reconstruct.attention": "causal",
        "reconstruct.learning_rate.token_pool": 1.5e-4,
        "reconstruct.learning_rate.head": 1e-5,
        "reconstruct.reconstruction.head": "linear",
    }
    for stage in ("reconstruct", "finetune"):
        rates = {"vision_tower": 2e-6, "projector": 1e-5, "llm": 1e-5}
        expected |= {f"{stage}.learning_rate.{group}": rate for group, rate in rates.items()}
        expected |= {f"{stage}.batch.global_size": 128, f"{stage}.zero_stage": 3, f"{stage}.template": "qwen_1_5"}
        expected |= {f"{stage}.optimizer.schedule": "linear", f"{stage}.optimizer.warmup_ratio": 0}
    assert {key: values[key] for key in expected} == expected
    masks = load_recipe("victor-code-7b", environ={}).recipe.reconstruct.mask
    assert (masks.num_masked(729), masks.num_masked(576)) == (729 - 729 // 4, 576 - 576 // 4)


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_row_of_the_ablations_changes_its_one_thing(name: str) -> None:
    assert changes(f"ablations/{name}", "croc-7b") == ABLATIONS[name]


@pytest.mark.parametrize("name", OF_THE_BASELINE)
def test_the_rows_without_objectives_are_the_baseline(name: str) -> None:
    assert changes(f"ablations/{name}", "llava-1.5-7b") == OF_THE_BASELINE[name]


def test_no_ablation_is_left_out_of_this_test() -> None:
    shipped = {name.removeprefix("ablations/") for name in recipe_names() if name.startswith("ablations/")}
    assert shipped == {*ABLATIONS, *OF_THE_BASELINE}


def test_an_ablation_is_a_line_or_two() -> None:
    for file in (recipe_folder() / "ablations").glob("*.yaml"):
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        assert 2 <= len(lines) <= 4, file


def test_the_control_differs_from_nano_in_its_objective_alone() -> None:
    assert changes("nano-control", "nano") == {
        "reconstruct.learning_rate.token_pool": 0.0,
        "reconstruct.mask.ratio": 0.0,
        "reconstruct.objectives.reconstruction_weight": 0.0,
    }
    assert changes("nano-nearest", "nano") == {"reconstruct.matching": "nearest"}


def test_the_papers_numbers_stand_in_croc_7b() -> None:
    values = flat(load_recipe("croc-7b", environ={}).recipe)
    expected = {
        "align.batch.global_size": 256,
        "align.learning_rate.projector": 1e-3,
        "align.zero_stage": 2,
        "reconstruct.batch.global_size": 128,
        "reconstruct.learning_rate.llm": 2e-5,
        "reconstruct.learning_rate.projector": 1.5e-4,
        "reconstruct.learning_rate.token_pool": 1.5e-4,
        "reconstruct.zero_stage": 3,
        "reconstruct.pool.size": 2048,
        "reconstruct.mask.ratio": 0.75,
        "reconstruct.objectives.reconstruction_weight": 10,
        "finetune.batch.global_size": 128,
        "finetune.learning_rate.llm": 2e-5,
        "finetune.learning_rate.projector": 2e-5,
        "finetune.zero_stage": 3,
    }
    assert {key: values[key] for key in expected} == expected
    for stage in ("align", "reconstruct", "finetune"):
        assert values[f"{stage}.optimizer.betas"] == [0.9, 0.98]
        assert values[f"{stage}.optimizer.weight_decay"] == 0
        assert values[f"{stage}.optimizer.warmup_ratio"] == 0.03
        assert values[f"{stage}.precision"] == "bf16"
