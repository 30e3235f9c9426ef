"""The names under which a stock LLaVA's weights are written.

transformers 5 has dropped the level `vision_model` inside its vision towers, and writes towers without it. LLaVA's
published checkpoints, transformers 4 and vLLM have it, and transformers 5 reads either; so it is written.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_TOWER = "model.vision_tower."
_LEVEL = "vision_model."


def names_to_write(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names they are saved with, given by those of `LlavaForConditionalGeneration`."""
    return {_written(name): tensor for name, tensor in weights.items()}


def weights_to_write(llava: Any) -> dict[str, Tensor]:
    """Return a model's weights by the names they are saved with; one that is tied to another only once."""
    tied = set(llava.all_tied_weights_keys)
    return names_to_write({name: tensor for name, tensor in llava.state_dict().items() if name not in tied})


def _written(name: str) -> str:
    if not name.startswith(_TOWER) or name.startswith(_TOWER + _LEVEL):
        return name
    return _TOWER + _LEVEL + name.removeprefix(_TOWER)
