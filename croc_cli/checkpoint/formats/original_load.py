"""Opens a checkpoint of the original LLaVA, Croc or ViCToR code as the stock model that computes the same.

Letters: V vocabulary size, D the LLM's hidden size, D_v the tower's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import LlamaConfig, Qwen2Config

from croc_cli.checkpoint.fit import checked_weights
from croc_cli.checkpoint.formats.lora import CONFIG_FILE as LORA_CONFIG_FILE
from croc_cli.checkpoint.formats.lora import merge_lora, read_adapter_config
from croc_cli.checkpoint.formats.original import (
    HARMLESS,
    SUPPORTED,
    OriginalConfig,
    projector_name,
    read_original_config,
    stock_name,
    training_state_name,
)
from croc_cli.checkpoint.formats.original_parts import TowerSource, find_base, find_tokenizer, find_tower
from croc_cli.checkpoint.formats.victor import VICTOR, check_is_victor, saved_names
from croc_cli.checkpoint.metadata import DAMAGED, read_metadata, read_object, verify_hashes
from croc_cli.checkpoint.opened import TOKENIZER_MODEL, OpenedModel, read_recipe
from croc_cli.checkpoint.weights import PROJECTOR_FILES, first_file, model_files, read_file, read_model
from croc_cli.data.processor_template import chat_template_for
from croc_cli.errors import UsageError
from croc_cli.model.build import llava_config, stock_processor
from croc_cli.model.opening import opening
from croc_cli.model.vision_tower import has_class_token
from croc_cli.model.vocabulary import checked_token_ids, grow_rows, grown_size
from croc_cli.names import METADATA_FILE
from croc_cli.recipe.schema import TemplateName

CONVERTED_KEY = "converted_from"
"""Key of croc.json for the original config and what the original folder held, which the way back needs."""

PROCESSOR_TEMPLATE_KEY = "processor_chat_template"
"""Key of croc.json beside an original checkpoint for the chat template of the model's processor."""
RESAMPLING_KEY = "image_resampling"
"""Key of croc.json beside an original checkpoint for how pictures are resized, where its code does it differently."""
_BESIDE_KEYS = (PROCESSOR_TEMPLATE_KEY, RESAMPLING_KEY)

_SHARED_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "attention_dropout",
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
LLAMA_KEYS = (*_SHARED_KEYS, "attention_bias", "mlp_bias", "pretraining_tp")
QWEN_KEYS = (*_SHARED_KEYS, "use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
"""Keys of config.json that are the LLM's."""
USUAL_TEMPLATES: Mapping[str, TemplateName] = {
    "llava_llama": "vicuna_v1",
    "croc_llama": "vicuna_v1",
    VICTOR: "qwen_1_5",
}
"""What each code trains conversations with."""
_TOWER_START = "model.vision_tower."
_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class OriginalOptions:
    """What a user may say about an original checkpoint.

    Args:
        base: Folder or hub id of the LLM under a projector or an adapter; None takes what the adapter names.
        vision_tower: Folder or hub id, instead of what the config names.
        allow_partial: Leave out unexpected weights, and draw missing ones at random.
        trust_remote_code: Let the tokenizer's folder bring code of its own.
    """

    base: str | None = None
    vision_tower: str | None = None
    allow_partial: bool = False
    trust_remote_code: bool = False


def open_original(
    folder: Path, options: OriginalOptions | None = None, *, say: Callable[[str], None] = lambda _: None
) -> OpenedModel:
    """Open a checkpoint of the original code: whole, a projector alone, or LoRA.

    Args:
        folder: Its folder.
        options: What the user says about it.
        say: Told what was left out or taken from elsewhere, one line each.

    Raises:
        UsageError: Files are missing or damaged, weights are missing or unexpected, or shapes do not fit.
    """
    options = options or OriginalOptions()
    file = folder / "config.json"
    original = read_original_config(read_object(file), str(file), names=saved_names(folder))
    verify_hashes(folder)
    found, base, usual = _collect(folder, options, original.model_type)
    if original.model_type == VICTOR:
        check_is_victor(original.values, found, folder, SUPPORTED)
    beside = read_metadata(folder)
    aspect = beside.image_aspect or original.image_aspect
    template = beside.template if (folder / METADATA_FILE).is_file() else usual
    held_tower = any(name.startswith(_TOWER_START) for name in found)
    tower = find_tower(
        options.vision_tower or original.vision_tower,
        folder,
        aspect=aspect,
        needs_weights=not held_tower,
        say=say,
    )
    is_victor_siglip = original.model_type == VICTOR and not has_class_token(tower.config)
    if is_victor_siglip:
        aspect = beside.image_aspect or ("squeeze" if aspect == "square" else aspect)
        resampling = beside.extra.get(RESAMPLING_KEY, "bicubic")
        tower = tower.as_victor(found, aspect=aspect, resampling=resampling)
    if not held_tower:
        dtype = next(iter(found.values())).dtype
        found |= {name: tensor.to(dtype) for name, tensor in tower.weights().items()}
    weights, training_state = _sort(found)
    _check_fit(weights, original, tower, folder)
    tokenizer = find_tokenizer([folder, *([base] if base else [])], trust_remote_code=options.trust_remote_code)
    num_rows = weights[_EMBEDDINGS[0]].shape[0]
    with opening(str(folder / "config.json"), hint=DAMAGED):
        text = _text_config(original.values, original.model_type, vocab_size=grown_size(num_rows, len(tokenizer)))
    config = llava_config(
        tower.config,
        text,
        tokenizer,
        feature_layer=-1 if is_victor_siglip else original.feature_layer,
        strategy="full" if is_victor_siglip else original.strategy,
        dtype=weights[_EMBEDDINGS[0]].dtype,
    )
    weights |= {name: grow_rows(weights[name], text.vocab_size) for name in _EMBEDDINGS if name in weights}
    weights = checked_weights(weights, config, folder, allow_partial=options.allow_partial, say=say)
    record = {"config": dict(original.values), "vocab_size": num_rows, "vision_tower_inside": held_tower}
    written = beside.extra.get(PROCESSOR_TEMPLATE_KEY)
    chat_template = chat_template_for(template, beside.system_prompt) if template else None
    if chat_template is None and isinstance(written, str):
        chat_template = tokenizer.chat_template = written
    return OpenedModel(
        config=config,
        weights=weights,
        processor=stock_processor(tokenizer, tower.image_processor, config, chat_template=chat_template),
        training_state=training_state,
        metadata=replace(
            beside,
            visual_norm=original.visual_norm,
            template=template,
            image_aspect=aspect,
            extra={key: value for key, value in beside.extra.items() if key not in _BESIDE_KEYS}
            | {CONVERTED_KEY: record},
        ),
        end_ids=_end_ids(folder, original, vocab_size=text.vocab_size),
        recipe_yaml=read_recipe(folder),
        tokenizer_model=first_file(folder, [TOKENIZER_MODEL])
        or (first_file(base, [TOKENIZER_MODEL]) if base else None),
    )


def _end_ids(folder: Path, original: OriginalConfig, *, vocab_size: int) -> Any:
    """Return what the generation config, or else the config, says that answers end with.

    Raises:
        UsageError: It is not a token of the vocabulary.
    """
    file = folder / "generation_config.json"
    said = read_object(file).get("eos_token_id") if file.is_file() else None
    where = file if said is not None else folder / "config.json"
    said = said if said is not None else original.values.get("eos_token_id")
    with opening(str(where), hint=DAMAGED):
        return checked_token_ids(said, vocab_size)


def _collect(folder: Path, options: OriginalOptions, kind: str) -> tuple[dict[str, Tensor], Path | None, TemplateName]:
    """Return all weights by original names, the base's folder where there is one, and the template."""
    usual = USUAL_TEMPLATES[kind]
    projector = first_file(folder, PROJECTOR_FILES)
    if (folder / LORA_CONFIG_FILE).is_file():
        name = options.base or str(read_adapter_config(folder).get("base_model_name_or_path"))
        base = find_base(name, needed_by=folder)
        return merge_lora(read_model(base), folder), base, usual
    if model_files(folder) or projector is None:
        return read_model(folder), Path(options.base) if options.base else None, usual
    if options.base is None:
        raise UsageError(
            f"{folder} holds a projector alone ({projector.name}), and its LLM is not in it",
            hint="--base names the LLM that it was trained on, such as lmsys/vicuna-7b-v1.5",
        )
    base = find_base(options.base, needed_by=folder)
    weights = read_model(base)
    weights |= {projector_name(name): tensor for name, tensor in read_file(projector).items()}
    return weights, base, "plain"  # what stage 1 trains with


def _text_config(values: Mapping[str, Any], kind: str, *, vocab_size: int) -> LlamaConfig | Qwen2Config:
    """Return the LLM's config, its rotary settings in the form that transformers 5 has for them."""
    scaling = dict(values.get("rope_scaling") or {})
    rope_type = scaling.pop("type", None) or scaling.pop("rope_type", "default")
    rope = {"rope_type": rope_type, "rope_theta": values.get("rope_theta", 10000.0), **scaling}
    names = QWEN_KEYS if kind == VICTOR else LLAMA_KEYS
    kept = {key: values[key] for key in names if key in values}
    text_class = Qwen2Config if kind == VICTOR else LlamaConfig
    return text_class(**kept, vocab_size=vocab_size, rope_parameters=rope)


def _sort(found: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the model's weights by stock names, and what croc keeps as training state."""
    weights, training_state = {}, {}
    for name, tensor in found.items():
        if name.endswith(HARMLESS):
            continue
        if state_name := training_state_name(name):
            training_state[state_name] = tensor
        else:
            weights[stock_name(name)] = tensor
    return weights, training_state


def _check_fit(weights: Mapping[str, Tensor], original: OriginalConfig, tower: TowerSource, folder: Path) -> None:
    """Raise UsageError unless tower, projector and LLM have the dimensions that each needs of the other."""
    embeddings, first = weights.get(_EMBEDDINGS[0]), weights.get("model.multi_modal_projector.linear_1.weight")
    if embeddings is None or first is None:
        missing = "LLM (model.embed_tokens.weight)" if embeddings is None else "projector (model.mm_projector.0.weight)"
        raise UsageError(
            f"{folder} holds no {missing}", hint="it is incomplete; a projector alone or LoRA needs --base"
        )
    gives, takes = tower.config.hidden_size, embeddings.shape[1]
    if first.ndim != 2 or tuple(first.shape) != (takes, gives) or takes != original.values.get("hidden_size"):
        shape = " × ".join(str(size) for size in first.shape)
        raise UsageError(
            f"{folder}: the parts do not fit: the vision tower gives {gives} dimensions, "
            f"the projector's first layer is {shape} (out × in), the LLM takes {takes}, "
            f"and config.json says hidden_size {original.values.get('hidden_size')}",
            hint="--vision-tower and --base name the parts that the projector was trained with",
        )
