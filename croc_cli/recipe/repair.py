"""Stands in for wrong values, so that the cross-checks can speak about the rest of a recipe in the same run."""

import copy
from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

from croc_cli.recipe.issues import KeyPath
from croc_cli.recipe.schema import Recipe

_STAGE: Final[dict[str, Any]] = {
    "batch": {"global_size": 1, "micro_size": 1},
    "learning_rate": {},
    "template": "vicuna_v1",
}
_SOURCE: Final[dict[str, Any]] = {"kind": "llava_json", "path": "-", "image_folder": "-"}
_STAND_IN: Final[dict[str, Any]] = {
    "name": "stand-in",
    "model": {"vision_tower": "-", "llm": "-"},
    "data": {"align": _SOURCE, "reconstruct": _SOURCE, "finetune": _SOURCE},
    "align": _STAGE,
    "reconstruct": _STAGE,
    "finetune": _STAGE,
}


def repaired(values: dict[str, Any], wrong: Sequence[KeyPath]) -> Recipe | None:
    """Return a recipe in which harmless values take the place of the wrong ones, or None where that does not do.

    Args:
        values: A recipe's values, left as they are.
        wrong: Keys whose values do not fit, are missing, or are unknown.
    """
    copied = copy.deepcopy(values)
    for path in wrong:
        _replace(copied, path)
    try:
        return Recipe.model_validate(copied)
    except ValidationError:
        return None


def _replace(values: dict[str, Any], path: KeyPath) -> None:
    if path[0] == "data" and len(path) > 2:
        path = path[:2]  # a source's keys depend on its kind, so it is replaced as a whole
    known: Any = _STAND_IN
    for key in path:
        known = known.get(key) if isinstance(known, dict) else None
    inside: Any = values
    for key in path[:-1]:
        inside = inside.get(key) if isinstance(inside, dict) else None
    if not isinstance(inside, dict):
        return
    if known is None:
        inside.pop(path[-1], None)
    else:
        inside[path[-1]] = copy.deepcopy(known)
