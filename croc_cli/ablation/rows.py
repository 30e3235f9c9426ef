"""From a row of the paper's tables to a recipe, on the paper's 7B or in small on another base."""

from collections.abc import Mapping, Sequence
from typing import Any

from croc_cli.names import STAGES
from croc_cli.recipe.find import find_recipe
from croc_cli.recipe.load import load_recipe, with_overrides
from croc_cli.recipe.schema import Recipe, ScenesData
from croc_cli.recipe.yaml_file import read_yaml

PAPER_BASE = "croc-7b"
PAPER_POOL_SIZE = 2048
BRIEF_CAPTIONS, MORE_DATA = "captions-brief", "objectives-none-more-data"
"""Rows whose data is another; on a base other than the paper's it has to be something like it."""
_NO_STAGE_1_5 = {"reconstruct": {"enabled": False}}
_FOUNDATIONS: dict[str, dict[str, Any]] = {PAPER_BASE: {}, "llava-1.5-7b": _NO_STAGE_1_5}
"""Recipes that rows extend, and what is left of them on another base: LLaVA-1.5 is the base without stage 1.5."""


def row_recipe(row: str, *, base: str, seed: int, settings: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a row.

    On the paper's base it is the row's own. On another one, what the row says is laid over that base, in proportion:
    a pool of 2,048 tokens becomes the base's own size, and other sizes keep their ratio to it; brief captions are
    drawn for the same pictures where pictures are drawn; the extra data of stage 1 (Table 5, row 2) trains the
    projector alone in the place of stage 1.5, at the rate of stage 1.

    Args:
        row: The recipe's name below `ablations/`.
        base: Name or file of the base.
        seed: Of every stage.
        settings: What `--set` was given, of the base.

    Raises:
        RecipeError: The base cannot be loaded, or the row does not fit it.
    """
    flags = {f"{stage}.seed": (seed, "--seeds") for stage in STAGES}
    chosen = with_overrides(flags, settings)
    if base == PAPER_BASE:
        return load_recipe(f"ablations/{row}", overrides=chosen).recipe
    below = load_recipe(base, overrides=chosen).recipe
    origin = f"recipes/ablations/{row}.yaml"
    changes = {key: (value, origin) for key, value in flatten(changes_on(row, below)).items()}
    return load_recipe(base, overrides=chosen | changes).recipe


def changes_on(row: str, base: Recipe) -> dict[str, Any]:
    """Return what a row changes in a base that is not the paper's."""
    values = own_values(row)
    scenes = isinstance(base.data.reconstruct, ScenesData)
    if row == MORE_DATA:
        return {
            "reconstruct": {
                "learning_rate": {
                    "vision_tower": 0.0,
                    "projector": base.align.learning_rate.projector,
                    "llm": 0.0,
                    "token_pool": 0.0,
                },
                "objectives": {"reconstruction_weight": 0.0},
                "mask": {"ratio": 0.0},
                "attention": "causal",
            }
        }
    if scenes:  # files and mixes of the paper's data have no place among drawn pictures
        values.pop("data", None)
    if scenes and row == BRIEF_CAPTIONS:
        values["data"] = {"reconstruct": {"brief": True}}
    if size := values.get("reconstruct", {}).get("pool", {}).get("size"):
        values["reconstruct"]["pool"]["size"] = scaled_pool_size(size, base)
    return values


def scaled_pool_size(size: int, base: Recipe) -> int:
    """Return a pool size of the paper in proportion to the base's pool, which stands for 2,048; at least 1."""
    return max(1, round(size * base.reconstruct.pool.size / PAPER_POOL_SIZE))


def own_values(row: str) -> dict[str, Any]:
    """Return what a row's file and those it extends say, down to the paper's model or to LLaVA-1.5."""
    name = f"ablations/{row}"
    chain: list[Mapping[str, Any]] = []
    while name not in _FOUNDATIONS:
        file = find_recipe(name)
        values = read_yaml(file, label=name).values
        chain.append({key: value for key, value in values.items() if key not in ("extends", "name", "description")})
        name = str(values["extends"])
    merged: dict[str, Any] = {}
    for values in (_FOUNDATIONS[name], *reversed(chain)):
        _merge(merged, values)
    return merged


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = into.setdefault(key, {})
            _merge(inner, value)
        else:
            into[key] = value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
