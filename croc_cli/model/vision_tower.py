"""CLIP and SigLIP vision towers: how they are opened, and how many visual tokens LLaVA takes of an image."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, CLIPVisionModel, SiglipVisionModel

from croc_cli.errors import UsageError
from croc_cli.model.opening import opening
from croc_cli.model.values import check_values
from croc_cli.recipe.facts import CLIP_TYPES, SIGLIP_TYPES, num_used_layers

_LAYER = re.compile(r"(?:^|\.)encoder\.layers\.(\d+)\.")
_AFTER_LAYERS = re.compile(r"(?:^|\.)(?:post_layernorm|head)\.")
_FETCH_AGAIN = "fetch its files again, or choose another"


def load_tower(folder: Path | str, dtype: torch.dtype) -> Any:
    """Open a vision tower: one of its own, or that of a whole CLIP or SigLIP.

    Args:
        folder: The tower's folder.
        dtype: Of all weights.

    Raises:
        UsageError: It is of another kind, not whole, or damaged.
    """
    kind = _model_type(folder)
    if kind not in CLIP_TYPES + SIGLIP_TYPES:
        raise UsageError(
            f"the vision tower in {folder} is of type {kind!r}, expected a CLIP or SigLIP vision tower",
            hint="such as openai/clip-vit-large-patch14-336 or google/siglip-so400m-patch14-384",
        )
    tower_class = CLIPVisionModel if kind in CLIP_TYPES else SiglipVisionModel
    return open_whole(tower_class, folder, what="vision tower", dtype=dtype)


def open_whole(model_class: Any, folder: Path | str, *, what: str, **options: Any) -> Any:
    """Open a pretrained model without running any code of its folder, and refuse one that lacks weights.

    Args:
        model_class: A class of transformers with `from_pretrained`.
        folder: The model's folder.
        what: What it is, for messages.
        options: Passed on to `from_pretrained`.

    Raises:
        UsageError: It cannot be opened, or weights are missing, which transformers would draw at random.
    """
    with opening(f"the {what} in {folder}", hint=_FETCH_AGAIN):
        model, found = model_class.from_pretrained(folder, trust_remote_code=False, output_loading_info=True, **options)
    if missing := sorted(found["missing_keys"]):
        raise UsageError(
            f"the {what} in {folder} is incomplete: weights are missing ({len(missing)}), such as {missing[0]}",
            hint=_FETCH_AGAIN,
        )
    for name, weight in model.named_parameters():
        check_values(name, weight.detach(), f"the {what} in {folder}", hint=_FETCH_AGAIN)
    return model


def has_class_token(vision_config: Any) -> bool:
    """Tell whether the tower puts a class token before its patches, as CLIP does and SigLIP does not."""
    return vision_config.model_type in CLIP_TYPES


def select_strategy(vision_config: Any) -> str:
    """Return which hidden states are visual tokens: `default` leaves the class token out, `full` takes them all."""
    return "default" if has_class_token(vision_config) else "full"


def num_additional_tokens(vision_config: Any) -> int:
    """Return how many tokens the tower has beside its patches, as a stock processor counts them."""
    return int(has_class_token(vision_config))


def num_visual_tokens(config: Any) -> int:
    """Return n, the visual tokens that a LLaVA config makes of an image."""
    vision = config.vision_config
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    return int((vision.image_size // vision.patch_size) ** 2) + num_additional_tokens(vision) - dropped


def unused_weights(tower: Any, feature_layer: int | list[int]) -> set[str]:
    """Return the names of a tower's weights that no visual token depends on.

    These are the layers behind the projected hidden state, which is taken before the last norm, that norm, and SigLIP's
    pooling head.

    Args:
        tower: A CLIP or SigLIP vision tower.
        feature_layer: Hidden state that is projected; several, where the LLaVA takes several.
    """
    states = [feature_layer] if isinstance(feature_layer, int) else feature_layer
    used = max(num_used_layers(state, tower.config.num_hidden_layers) for state in states)
    return {name for name, _ in tower.named_parameters() if _is_behind(name, used)}


def _is_behind(name: str, num_used: int) -> bool:
    """Tell whether a weight belongs to a layer from `num_used` (from 0) on, or to what comes after all layers."""
    if layer := _LAYER.search(name):
        return int(layer.group(1)) >= num_used
    return _AFTER_LAYERS.search(name) is not None


def _model_type(folder: Path | str) -> str:
    hint = "it takes a folder in Hugging Face's form: config.json, weights, image processor"
    with opening(f"the vision tower in {folder}", hint=hint):
        return str(AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type)
