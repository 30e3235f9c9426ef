"""What is known about a recipe's vision tower and LLM without loading them: sizes from config.json, or from a table."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import croc_cli
from croc_cli.files import own_path, read_bytes
from croc_cli.recipe.schema import ModelRecipe

BUILTIN_PREFIX: Final = "builtin:"
BUILTIN_FOLDERS: Final = {"nano": Path("demo") / "backbones"}

_CLIP_DEFAULTS: Final[dict[str, Any]] = {  # of transformers.CLIPVisionConfig; a saved config may leave them out
    "image_size": 224,
    "patch_size": 32,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "num_channels": 3,
}
_LLAMA_DEFAULTS: Final[dict[str, Any]] = {  # of transformers.LlamaConfig
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_SO400M: Final[dict[str, Any]] = {
    "model_type": "siglip_vision_model",
    "image_size": 384,
    "patch_size": 14,
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "intermediate_size": 4304,
}
_KNOWN_TOWERS: Final[dict[str, dict[str, Any]]] = {  # their config.json on the hub
    "openai/clip-vit-large-patch14-336": {
        "image_size": 336,
        "patch_size": 14,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 4096,
    },
    "openai/clip-vit-large-patch14": {
        "image_size": 224,
        "patch_size": 14,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 4096,
    },
    "openai/clip-vit-base-patch16": {"patch_size": 16},
    "openai/clip-vit-base-patch32": {},
    "google/siglip-so400m-patch14-384": _SO400M,
    "google/siglip2-so400m-patch14-384": _SO400M,
}
_QWEN2_7B: Final[dict[str, Any]] = {
    "model_type": "qwen2",
    "max_position_embeddings": 32768,
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
}
_KNOWN_LLMS: Final[dict[str, dict[str, Any]]] = {  # their config.json on the hub
    "lmsys/vicuna-7b-v1.5": {"max_position_embeddings": 4096},
    "lmsys/vicuna-13b-v1.5": {
        "max_position_embeddings": 4096,
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "intermediate_size": 13824,
    },
    "meta-llama/Meta-Llama-3-8B-Instruct": {
        "max_position_embeddings": 8192,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    },
    "Qwen/Qwen2-7B-Instruct": _QWEN2_7B,
    "Qwen/Qwen2.5-7B-Instruct": _QWEN2_7B,
    "Qwen/Qwen2.5-0.5B-Instruct": {
        **_QWEN2_7B,
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "max_position_embeddings": 8192,
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}
_SIGLIP_DEFAULTS: Final[dict[str, Any]] = _CLIP_DEFAULTS | {"patch_size": 16}  # of transformers.SiglipVisionConfig
_SIZES: Final = ("image_size", "patch_size", "hidden_size", "num_layers", "intermediate_size", "num_channels")
"""Fields of TowerFacts that hold the values of the keys above, in their order."""
CLIP_TYPES: Final = ("clip_vision_model", "clip")
SIGLIP_TYPES: Final = ("siglip_vision_model", "siglip")
"""Names of vision towers in configs, alone and within a whole CLIP or SigLIP."""
_LLM_TYPES: Final = ("llama", "mistral", "qwen2")
"""Architectures whose parameters are counted: all have Llama's blocks, qwen2 with biases on query, key and value."""


@dataclass(frozen=True)
class TowerFacts:
    """Sizes of a CLIP or SigLIP vision tower, in pixels and numbers of dimensions; SigLIP has no class token."""

    image_size: int
    patch_size: int
    hidden_size: int
    num_layers: int
    intermediate_size: int
    num_channels: int = 3
    has_class_token: bool = True

    @property
    def num_visual_tokens(self) -> int:
        """Patches of an image, the class token left out."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class LlmFacts:
    """Sizes of a decoder-only LLM; None where its config does not say.

    `window` is the number of tokens that sliding layers look back; None where the config names none.
    """

    model_type: str
    hidden_size: int | None
    num_layers: int | None
    num_heads: int | None
    num_kv_heads: int | None
    head_size: int | None
    intermediate_size: int | None
    vocab_size: int | None
    max_positions: int | None
    tied_embeddings: bool
    attention_bias: bool = False
    mlp_bias: bool = False
    window: int | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a recipe's parts; None for a part whose config is not at hand."""

    tower: TowerFacts | None
    llm: LlmFacts | None

    @property
    def num_visual_tokens(self) -> int | None:
        """Visual tokens of an image, or None."""
        return self.tower.num_visual_tokens if self.tower is not None else None


def model_facts(model: ModelRecipe) -> ModelFacts:
    """Return what is known of the vision tower and the LLM; reads two small files at most and asks no hub."""
    tower = _config(model.vision_tower, "vision_tower", model.vision_tower_revision)
    llm = _config(model.llm, "llm", model.llm_revision)
    return ModelFacts(
        tower=_tower_facts(_KNOWN_TOWERS.get(model.vision_tower) if tower is None else tower),
        llm=_llm_facts(_KNOWN_LLMS.get(model.llm) if llm is None else llm),
    )


def num_used_layers(feature_layer: int, num_layers: int) -> int:
    """Return how many layers of a tower its visual tokens depend on.

    Args:
        feature_layer: Hidden state that is projected: 0 = the embeddings, negative ones count from the last layer's.
        num_layers: Of the whole tower.
    """
    return feature_layer if feature_layer >= 0 else num_layers + 1 + feature_layer


def builtin_folder(name: str, part: str) -> Path | None:
    """Return the folder in this package that `builtin:nano` stands for, or None where `name` is no such name.

    Args:
        name: As the recipe gives it.
        part: "vision_tower" or "llm".
    """
    folder = BUILTIN_FOLDERS.get(name.removeprefix(BUILTIN_PREFIX)) if name.startswith(BUILTIN_PREFIX) else None
    return Path(croc_cli.__file__).parent / folder / part if folder is not None else None


def local_folder(name: str, part: str, revision: str | None) -> Path | None:
    """Return the folder of a model on this machine: this package's, the one that is named, or in the hub's cache.

    Args:
        name: As the recipe gives it.
        part: "vision_tower" or "llm".
        revision: Of a hub id.
    """
    folders = (builtin_folder(name, part), own_path(name), _cached(name, revision))
    return next((folder for folder in folders if folder is not None and folder.is_dir()), None)


def _config(name: str, part: str, revision: str | None) -> dict[str, Any] | None:
    """Return a config.json from a folder, from this package or from the hub's cache on this machine."""
    for folder in (builtin_folder(name, part), own_path(name), _cached(name, revision)):
        if folder is not None and (config := _read(folder / "config.json")) is not None:
            return config
    return None


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the folder in huggingface_hub's cache that a hub id was downloaded to, or None."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    home = own_path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    try:
        commit = (cache / "refs" / (revision or "main")).read_text().strip()
    except (OSError, UnicodeDecodeError):
        commit = revision or ""
    return cache / "snapshots" / commit if commit else None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(read_bytes(file))
    except (OSError, ValueError, RecursionError):  # a broken config.json is reported by the stage that loads the model
        return None
    return config if isinstance(config, dict) else None


def _tower_facts(config: Mapping[str, Any] | None) -> TowerFacts | None:
    kind = "clip" if config is None else config.get("model_type", "clip")
    if config is None or kind not in CLIP_TYPES + SIGLIP_TYPES:
        return None
    nested = config.get("vision_config")
    defaults = _CLIP_DEFAULTS if kind in CLIP_TYPES else _SIGLIP_DEFAULTS
    values = {**defaults, **(nested if isinstance(nested, dict) else config)}
    sizes = [values[key] for key in defaults]
    if not all(_is_size(size) for size in sizes):
        return None
    return TowerFacts(**dict(zip(_SIZES, sizes, strict=True)), has_class_token=kind in CLIP_TYPES)


def _llm_facts(config: Mapping[str, Any] | None) -> LlmFacts | None:
    if config is None:
        return None
    nested = config.get("text_config")
    values = dict(nested if isinstance(nested, dict) else config)
    model_type = str(values.get("model_type", "llama"))
    if model_type == "llama":
        values = {**_LLAMA_DEFAULTS, **values}
    heads, hidden = _number(values, "num_attention_heads"), _number(values, "hidden_size")
    return LlmFacts(
        model_type=model_type,
        hidden_size=hidden,
        num_layers=_number(values, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_number(values, "num_key_value_heads") or heads,
        head_size=_number(values, "head_dim") or (hidden // heads if hidden and heads else None),
        intermediate_size=_number(values, "intermediate_size"),
        vocab_size=_number(values, "vocab_size"),
        max_positions=_number(values, "max_position_embeddings"),
        tied_embeddings=bool(values.get("tie_word_embeddings", False)),
        attention_bias=bool(values.get("attention_bias", model_type == "qwen2")),
        mlp_bias=bool(values.get("mlp_bias", False)),
        window=_number(values, "sliding_window") if _slides(values, model_type) else None,
    )


def _slides(values: Mapping[str, Any], model_type: str) -> bool:
    """Tell whether a config's sliding window is used; Qwen2's and Qwen3's name one that is switched off."""
    layers = values.get("layer_types")
    if isinstance(layers, list):
        return "sliding_attention" in layers
    return bool(values.get("use_sliding_window", not model_type.startswith("qwen")))


def _number(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    return value if _is_size(value) else None


def _is_size(value: Any) -> bool:
    """Tell whether a value is a size that a model can have: arithmetic on thousands of digits says nothing."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def is_counted(llm: LlmFacts) -> bool:
    """Return whether the LLM's parameters can be counted from its config."""
    return llm.model_type in _LLM_TYPES
