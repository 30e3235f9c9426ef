from typing import Any

import pytest

from croc_cli.ablation.rows import flatten, own_values, row_recipe
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.schema import Recipe


def changes(recipe: Recipe, base: str) -> dict[str, Any]:
    own = flatten(recipe.model_dump(mode="json"))
    other = flatten(load_recipe(base, environ={}).recipe.model_dump(mode="json"))
    return {key: value for key, value in own.items() if other.get(key) != value}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("pool-size-1", {"reconstruct.pool.size": 1}),
        ("pool-size-576", {"reconstruct.pool.size": 36}),
        ("pool-size-2048", {}),
        ("pool-size-4096", {"reconstruct.pool.size": 256}),
        ("mask-ratio-0.00", {"reconstruct.mask.ratio": 0.0, "reconstruct.reconstruction.scope": "all"}),
        ("matching-nearest", {"reconstruct.matching": "nearest"}),
        ("attention-unidirectional", {"reconstruct.attention": "causal"}),
        ("captions-brief", {"data.reconstruct.brief": True}),
        ("captions-detailed", {}),
        ("no-align", {"align.enabled": False}),
        ("objectives-none", {"reconstruct.enabled": False}),
        ("objectives-reconstruction", {"reconstruct.objectives.caption_weight": 0}),
        (
            "objectives-none-more-data",
            {
                "reconstruct.learning_rate.llm": 0.0,
                "reconstruct.learning_rate.projector": 1e-3,
                "reconstruct.learning_rate.token_pool": 0.0,
                "reconstruct.objectives.reconstruction_weight": 0.0,
                "reconstruct.mask.ratio": 0.0,
                "reconstruct.attention": "causal",
            },
        ),
        (
            "objectives-data-only",
            {
                "reconstruct.learning_rate.token_pool": 0,
                "reconstruct.objectives.reconstruction_weight": 0,
                "reconstruct.mask.ratio": 0,
                "reconstruct.attention": "causal",
            },
        ),
    ],
)
def test_a_row_on_nano_changes_what_it_says_in_proportion(row: str, expected: dict[str, Any]) -> None:
    assert changes(row_recipe(row, base="nano", seed=0), "nano") == expected


def test_seed_and_settings_go_into_every_row_and_rows_win_over_settings() -> None:
    recipe = row_recipe(
        "pool-size-1", base="nano", seed=5, settings=["reconstruct.max_steps=3", "reconstruct.pool.size=64"]
    )
    assert [recipe.align.seed, recipe.reconstruct.seed, recipe.finetune.seed] == [5, 5, 5]
    assert recipe.reconstruct.max_steps == 3
    assert recipe.reconstruct.pool.size == 1
    # 64 then stands for the paper's 2,048.
    larger = row_recipe("pool-size-4096", base="nano", seed=5, settings=["reconstruct.pool.size=64"])
    assert larger.reconstruct.pool.size == 128


def test_on_the_papers_own_base_a_row_is_its_recipe() -> None:
    recipe = row_recipe("objectives-none", base="croc-7b", seed=0)
    expected = load_recipe("ablations/objectives-none", environ={}).recipe
    assert recipe == expected


def test_own_values_go_down_to_the_papers_model() -> None:
    assert own_values("objectives-none") == {"reconstruct": {"enabled": False}}
    assert own_values("pool-size-1") == {"reconstruct": {"pool": {"size": 1}}}
