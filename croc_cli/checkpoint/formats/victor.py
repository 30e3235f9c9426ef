"""ViCToR's checkpoints (`model_type: llava_qwen`), told from those of LLaVA-NeXT's code, which have the same type.

ViCToR L2-normalises its visual tokens and the others do not, so one that is taken for the other answers nonsense.
Imports nothing heavy, so that a folder can be told and checked before torch is loaded.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from croc_cli.checkpoint.headers import read_header
from croc_cli.checkpoint.metadata import read_object
from croc_cli.errors import UsageError
from croc_cli.names import HEAD_PREFIX, POOL_PREFIX

VICTOR: Final = "llava_qwen"
ARCHITECTURE: Final = "LlavaQwenForCausalLM"
POOL_SIZE_KEY: Final = "mm_pool_size"
"""The only key of config.json that LLaVA-NeXT's code does not write."""
POOL_NAME: Final = "model.token_pool"
TRAINING_NAMES: Final = (
    (POOL_NAME, f"{POOL_PREFIX}weight"),
    ("img_head.", f"{HEAD_PREFIX}resize."),
    ("model.pool_weight.", "unused.pool_weight."),
)
"""What its code keeps beside the model; its pool_weight is never called."""
_OWN_WEIGHTS = (POOL_NAME, "img_head.", "model.pool_weight.")

GENERATIONS: Final = {
    "llava_next": "LLaVA-NeXT",
    "llava_next_video": "LLaVA-NeXT-Video",
    "llava_onevision": "LLaVA-OneVision",
    "llava_mistral": "LLaVA-NeXT",
    "llava_mixtral": "LLaVA-NeXT",
    "llava_gemma": "LLaVA-NeXT",
    "llava_qwen_moe": "LLaVA-NeXT",
    "video_llava": "Video-LLaVA",
    "vipllava": "ViP-LLaVA",
}
"""`model_type` → what it is called."""


def generation_of(values: Mapping[str, Any]) -> str:
    """Return the name of the generation of LLaVA that a config of LLaVA-NeXT's code most likely belongs to."""
    named = " ".join(str(values.get(key, "")) for key in ("_name_or_path", "image_aspect_ratio")).lower()
    return "LLaVA-OneVision" if "onevision" in named or "anyres_max" in named else "LLaVA-NeXT"


def check_is_victor(
    values: Mapping[str, Any], names: Collection[str] | None, where: Path | str, supported: str
) -> None:
    """Raise UsageError where a `llava_qwen` checkpoint is of LLaVA-NeXT's own, not of ViCToR's.

    Args:
        values: The content of config.json.
        names: Of its weights, as far as they are known without opening any; None where they are not.
        where: Names it in messages.
        supported: What croc reads.
    """
    if values.get(POOL_SIZE_KEY) is not None or names is None or any(name.startswith(_OWN_WEIGHTS) for name in names):
        return
    said = ", ".join(f"{key} {values[key]}" for key in ("image_aspect_ratio", "mm_patch_merge_type") if key in values)
    raise UsageError(
        f"{where} holds a {generation_of(values)} checkpoint (model_type {VICTOR}{', ' if said else ''}{said}): it has"
        f" neither ViCToR's {POOL_SIZE_KEY} in config.json nor {POOL_NAME} or img_head among its weights",
        hint=f"croc reads {supported}; LLaVA-NeXT and LLaVA-OneVision have classes of their own in transformers",
    )


def saved_names(folder: Path) -> list[str] | None:
    """Return the names of a folder's whole weights without opening them; None where only opening would tell.

    Raises:
        UsageError: A header or an index is damaged.
    """
    if (folder / "model.safetensors").is_file():
        return list(read_header(folder / "model.safetensors"))
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if index.is_file() and isinstance(weight_map := read_object(index).get("weight_map"), dict):
            return list(weight_map)
    return None
