"""The layout of the original LLaVA code, and of Croc's and ViCToR's on top of it: config keys and weight names.

Imports nothing heavy, so that a folder can be told and checked before torch is loaded.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croc_cli.checkpoint.formats.victor import ARCHITECTURE, TRAINING_NAMES, VICTOR, check_is_victor, generation_of
from croc_cli.checkpoint.metadata import VisualNorm
from croc_cli.errors import UsageError
from croc_cli.names import HEAD_PREFIX, POOL_PREFIX
from croc_cli.recipe.schema import AspectName

ORIGINAL_TYPES: dict[str, VisualNorm] = {"llava_llama": "none", "croc_llama": "l2", VICTOR: "l2"}
"""`model_type` of the original code → norm of its visual tokens."""

SUPPORTED = "llava (transformers), llava_llama (LLaVA-1.5), croc_llama (Croc), llava_qwen (ViCToR)"
POOL_NAME = "model.mask_token"
HARMLESS = ("rotary_emb.inv_freq", "position_ids")
"""Ends of names that old versions of transformers saved and that carry nothing learned."""

_STOCK_NAMES = (
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("lm_head.", "lm_head."),
    ("model.", "model.language_model."),
)
_CROC_NAMES = (
    (POOL_NAME, f"{POOL_PREFIX}weight"),
    ("transform_block.layers.0.", f"{HEAD_PREFIX}layer."),
    ("transform_block.", HEAD_PREFIX),
    ("model.cross_attention.", "unused.cross_attention."),
)
"""What Croc's released code keeps beside the model; its cross-attention is never called."""
_TRAINING_NAMES = (*_CROC_NAMES, *TRAINING_NAMES)

_GRID_KEYS = ("image_aspect_ratio", "mm_patch_merge_type", "mm_resampler_type")
"""Keys by which later generations show several crops or frames."""
_FEATURES = {"patch": "default", "cls_patch": "full"}
_ASPECTS: dict[str | None, AspectName] = {"pad": "pad", "square": "square", None: "square"}


@dataclass(frozen=True)
class OriginalConfig:
    """What an original config.json says, in the words of stock LLaVA.

    Args:
        model_type: One of ORIGINAL_TYPES.
        values: All of it, as it was read.
        visual_norm: Norm of visual tokens after the projector.
        feature_layer: Hidden state of the tower that is projected.
        strategy: `default` or `full`, see `croc_cli.model.vision_tower`.
        image_aspect: How pictures are made square.
        vision_tower: Folder or hub id of the tower.
    """

    model_type: str
    values: Mapping[str, Any]
    visual_norm: VisualNorm
    feature_layer: int
    strategy: str
    image_aspect: AspectName
    vision_tower: str


def is_original(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is of the original code; early ones called their type `llava`, as stock LLaVA does."""
    kind = config.get("model_type")
    return kind in ORIGINAL_TYPES or (kind == "llava" and "mm_vision_tower" in config)


def original_kind(values: Mapping[str, Any]) -> str:
    """Return which of ORIGINAL_TYPES a config is of; early ones called all of them `llava`."""
    kind = str(values["model_type"])
    if kind == "llava":
        kind = VICTOR if ARCHITECTURE in (values.get("architectures") or ()) else "llava_llama"
    return kind


def read_original_config(
    values: Mapping[str, Any], where: str, *, names: Collection[str] | None = None
) -> OriginalConfig:
    """Return what an original config says.

    Args:
        values: The content of config.json.
        where: Names it in messages.
        names: Of the weights beside it, where they are known; they tell ViCToR's from LLaVA-NeXT's.

    Raises:
        UsageError: It asks for what stock LLaVA cannot do; the key and its value are named.
    """
    kind = original_kind(values)
    if kind == VICTOR:
        is_grid = values.get("image_aspect_ratio") not in _ASPECTS  # of several crops a picture, which ViCToR never has
        check_is_victor(values, () if is_grid and names is None else names, Path(where).parent, SUPPORTED)
    wanted = {
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_vision_select_feature": tuple(_FEATURES),
        "image_aspect_ratio": tuple(_ASPECTS),
        "mm_use_im_start_end": (False, None),
        "mm_patch_merge_type": ("flat", None),
        "mm_resampler_type": (None,),
    }
    defaults = {"mm_projector_type": "linear", "mm_vision_select_feature": "patch"}  # the original code's own
    given = {key: values.get(key, defaults.get(key)) for key in wanted}
    for key, allowed in wanted.items():
        if given[key] not in allowed:
            words = " or ".join(str(value) for value in allowed if value is not None) or "none"
            likely = f"it is most likely a {generation_of(values)} checkpoint; " if key in _GRID_KEYS else ""
            raise UsageError(
                f"{where}: {key} is {given[key]!r}, expected {words}",
                hint=f"{likely}croc reads {SUPPORTED}; other generations of LLaVA have a class of their own",
            )
    tower = values.get("mm_vision_tower") or values.get("vision_tower")
    if not isinstance(tower, str):
        raise UsageError(f"{where}: mm_vision_tower is {tower!r}, expected a folder or a hub id")
    return OriginalConfig(
        model_type=kind,
        values=values,
        visual_norm=ORIGINAL_TYPES[kind],
        feature_layer=int(values.get("mm_vision_select_layer", -2)),
        strategy=_FEATURES[given["mm_vision_select_feature"]],
        image_aspect=_ASPECTS[given["image_aspect_ratio"]],
        vision_tower=tower,
    )


def stock_name(name: str) -> str:
    """Return a weight's name in `LlavaForConditionalGeneration`, given its original one."""
    return _renamed(name, _STOCK_NAMES) or name


def training_state_name(name: str) -> str | None:
    """Return the name in croc's training state of a weight that is not part of the model, or None."""
    return _renamed(name, _TRAINING_NAMES)


def original_name(name: str, kind: str) -> str | None:
    """Return the original name of a stock weight or of a weight of the training state; None where there is none.

    Args:
        name: Of the weight.
        kind: One of ORIGINAL_TYPES.
    """
    training = TRAINING_NAMES if kind == VICTOR else _CROC_NAMES
    reverse = [(new, old) for old, new in (*training, *_STOCK_NAMES)]
    return _renamed(name, reverse)


def projector_name(name: str) -> str:
    """Return `model.mm_projector.…` for a weight of a projector's own file, which may leave out what comes before."""
    return "model.mm_projector." + name.rpartition("mm_projector.")[2]


def _renamed(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    return next((new + name[len(old) :] for old, new in table if name.startswith(old)), None)
