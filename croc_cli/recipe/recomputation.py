"""Which layers are computed again in the backward pass in place of being kept (Chen et al., arXiv:1604.06174)."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

Recomputation = Literal["none", "alternate", "full"]
"""`none`: every layer keeps its activations. `alternate`: every second layer is computed again. `full`: every one."""
RECOMPUTATIONS: tuple[Recomputation, ...] = ("none", "alternate", "full")
"""From the one that costs no time to the one that takes least memory."""


def _of_switch(value: Any) -> Any:
    """Return `full` for true and `none` for false, which earlier recipes have."""
    return {True: "full", False: "none"}[value] if isinstance(value, bool) else value


RecomputationSetting = Annotated[Literal["auto", "none", "alternate", "full"], BeforeValidator(_of_switch)]


def is_recomputed(choice: str, layer: int) -> bool:
    """Tell whether a layer, counted from 0, is computed again; `auto` that nobody settled counts as `full`."""
    return choice != "none" and (choice != "alternate" or layer % 2 == 1)


def num_recomputed(choice: str, layers: int) -> int:
    """Return how many of a model's layers are computed again."""
    return sum(is_recomputed(choice, layer) for layer in range(layers))
