"""Writes a model in the layout of the original LLaVA code, or of Croc's or ViCToR's, by LLM and visual norm."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from PIL import Image
from torch import Tensor

from croc_cli import __version__
from croc_cli.checkpoint.formats.original import original_name
from croc_cli.checkpoint.formats.original_load import (
    CONVERTED_KEY,
    LLAMA_KEYS,
    PROCESSOR_TEMPLATE_KEY,
    QWEN_KEYS,
    RESAMPLING_KEY,
    USUAL_TEMPLATES,
)
from croc_cli.checkpoint.formats.original_parts import TOWER_FOLDER, TOWER_PREFIX, is_left_out
from croc_cli.checkpoint.formats.victor import ARCHITECTURE, POOL_SIZE_KEY, VICTOR
from croc_cli.checkpoint.metadata import RECIPE_FILE, TOWER_TRAINED_KEY, share_weights
from croc_cli.checkpoint.opened import TOKENIZER_MODEL, OpenedModel
from croc_cli.data.qwen_template import QWEN_SYSTEM, TURN_END, TURN_START
from croc_cli.errors import UsageError
from croc_cli.launch.weights import combine_hashes, weights_files
from croc_cli.model.vision_tower import has_class_token
from croc_cli.model.vocabulary import grown_size
from croc_cli.names import IMAGE_TOKEN, METADATA_FILE, POOL_PREFIX
from croc_cli.recipe.facts import num_used_layers
from croc_cli.run_dir import sha256_of

_ARCHITECTURES = {
    "llava_llama": "LlavaLlamaForCausalLM",
    "croc_llama": "CrocLlamaForCausalLM",
    VICTOR: ARCHITECTURE,
}
_TOKENIZER_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token", "model_max_length", "padding_side",
    "clean_up_tokenization_spaces", "add_bos_token", "add_eos_token")  # fmt: skip
"""What transformers 4 reads of a tokenizer_config.json; version 5 has other keys, some of which stop version 4."""
_NOT_WRITTEN = ("bos_token_id", "eos_token_id", "pad_token_id", "pretraining_tp")
UNFREEZE_KEY = "unfreeze_mm_vision_tower"
"""Config key with which LLaVA's code builds the tower first, so that it takes the checkpoint's weights for it; without
the key it builds it last, from what `mm_vision_tower` names (llava/model/multimodal_encoder/clip_encoder.py)."""
_ROWS = ("model.embed_tokens.weight", "lm_head.weight")


def write_original(
    opened: OpenedModel, folder: Path, *, vision_tower: str | None, final: Path, say: Callable[[str], None]
) -> None:
    """Write config.json, weights and tokenizer as the original code saves them.

    A folder that was converted from this layout gives back its very weights and config. What the layout has no place
    for is written beside it, to croc.json, which `open_original` reads.

    Args:
        opened: The model.
        folder: Where to write.
        vision_tower: What `mm_vision_tower` is to say; None for what the original config said, or for a folder of the
            tower that is written too.
        final: Name that `folder` gets in the end.
        say: Told what a user should know.

    Raises:
        UsageError: The original code has no such model.
    """
    kind = _kind_of(opened)
    _say_what_lies_beside(opened, kind, say)
    record: Mapping[str, Any] = opened.metadata.extra.get(CONVERTED_KEY, {})
    num_rows = int(record.get("vocab_size") or original_rows(opened))
    weights = original_weights(opened, kind, num_rows=num_rows, say=say)
    if not record.get("vision_tower_inside", True):
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(TOWER_PREFIX)}
    config = dict(record["config"]) if record else _config(opened, kind, num_rows)
    is_trained = opened.metadata.extra.get(TOWER_TRAINED_KEY) is True
    if is_trained:
        config[UNFREEZE_KEY] = True
    if vision_tower is not None:
        config["mm_vision_tower"] = vision_tower
        if is_trained:
            say(f"note: the trained tower's weights are in the checkpoint; {vision_tower} gives its config alone")
    elif not record:
        config["mm_vision_tower"] = str(final / TOWER_FOLDER)
        write_tower(opened, folder / TOWER_FOLDER)
        say(
            f"note: mm_vision_tower is {final / TOWER_FOLDER}, where the tower lies; --vision-tower names another place"
        )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    ends = opened.all_end_ids()
    generation = {name: config.get(name) for name in ("bos_token_id", "pad_token_id")}
    generation["eos_token_id"] = ends if len(ends) > 1 else next(iter(ends), config.get("eos_token_id"))
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_plain_tokenizer(opened, folder, num_rows=num_rows)
    if kind == VICTOR:
        _name_turn_tokens(folder)
    _write_beside(opened, kind, folder)


def _say_what_lies_beside(opened: OpenedModel, kind: str, say: Callable[[str], None]) -> None:
    about = opened.metadata
    known = about.template in ("plain", USUAL_TEMPLATES[kind]) and about.system_prompt in (None, QWEN_SYSTEM)
    if not known and (about.template is not None or opened.processor.chat_template):
        say(
            "warning: the original code has no place for this model's chat template and prompts it another way; the "
            f"template goes into {METADATA_FILE}, and croc reads it from there"
        )
    if (resampling := _own_resampling(opened, kind)) is not None:
        say(
            f"warning: ViCToR's code resizes pictures bicubically and this model's are resized by {resampling}; croc "
            f"reads that from {METADATA_FILE}"
        )
    if about.image_aspect == "squeeze" and has_class_token(opened.config.vision_config):
        say(
            "warning: the original code crops pictures that this model saw squeezed (image_aspect square); croc reads "
            f"that from {METADATA_FILE}"
        )


def _own_resampling(opened: OpenedModel, kind: str) -> str | None:
    """Return how a SigLIP model's pictures are resized, where ViCToR's code does it in another way."""
    if kind != VICTOR or has_class_token(opened.config.vision_config):
        return None
    name = Image.Resampling(opened.processor.image_processor.resample).name.lower()
    return None if name == "bicubic" else name


def _name_turn_tokens(folder: Path) -> None:
    """Name the two control tokens that ViCToR's code unpacks from a tokenizer's additional ones."""
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8")) | {"additional_special_tokens": [TURN_START, TURN_END]}
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_beside(opened: OpenedModel, kind: str, folder: Path) -> None:
    """Write croc.json and the recipe: what croc needs to open the folder as the model that it was."""
    files = {file.name: sha256_of(file) for file in weights_files(folder)}
    kept = {key: value for key, value in opened.metadata.extra.items() if key != CONVERTED_KEY}
    if opened.processor.chat_template:
        kept[PROCESSOR_TEMPLATE_KEY] = opened.processor.chat_template
    if (resampling := _own_resampling(opened, kind)) is not None:
        kept[RESAMPLING_KEY] = resampling
    replace(
        opened.metadata, croc_version=__version__, files=files, weights_sha256=combine_hashes(files), extra=kept
    ).write(folder)
    if opened.recipe_yaml is not None:
        (folder / RECIPE_FILE).write_text(opened.recipe_yaml, encoding="utf-8")


def original_weights(opened: OpenedModel, kind: str, *, num_rows: int, say: Callable[[str], None]) -> dict[str, Tensor]:
    """Return all weights by original names, the vocabulary cut to `num_rows`, what training left beside them too.

    Of a SigLIP tower ViCToR's code keeps the layers up to the projected one and no pooling head.
    """
    found: dict[str, Tensor] = {}
    left_out: dict[str, None] = {}
    kept_tower = _kept_tower(opened, kind)
    for name, tensor in (*opened.weights.items(), *opened.training_state.items()):
        original = original_name(name, kind)
        if original is None and name in opened.training_state and kind == VICTOR:
            left_out[name.split(".")[0] + " of stage 1.5"] = None
        elif original is None:
            raise UsageError(f"the original layout has no name for {name}", hint="--to stock keeps it")
        elif is_left_out(original, kept_tower):
            left_out["the vision tower's last layer and pooling head, which nothing depends on"] = None
        else:
            found[original] = tensor[:num_rows] if original in _ROWS else tensor
    if left_out:
        say(f"note: the layout of ViCToR's code has no place for {'; '.join(left_out)}: left out")
    return found


def _kept_tower(opened: OpenedModel, kind: str) -> Any:
    """Return the vision tower's config as far as the layout keeps it.

    Raises:
        UsageError: The model takes a layer that the code never takes.
    """
    vision = copy.deepcopy(opened.config.vision_config)
    if kind != VICTOR or has_class_token(vision):
        return vision
    used = num_used_layers(opened.config.vision_feature_layer, vision.num_hidden_layers)
    if used < vision.num_hidden_layers - 1:
        raise UsageError(
            f"ViCToR's code takes the output of SigLIP's last layer but one, and this model that of layer {used} of "
            f"{vision.num_hidden_layers}"
        )
    vision.num_hidden_layers, vision.vision_use_head = used, False
    return vision


def original_rows(opened: OpenedModel) -> int:
    """Return the vocabulary's size without the image token, where nothing but a padding token comes after it."""
    tokenizer, image_id = opened.processor.tokenizer, opened.config.image_token_id
    num_rows: int = opened.config.text_config.vocab_size
    is_last = set(range(image_id + 1, len(tokenizer))) <= {tokenizer.pad_token_id}
    # Rows that the LLM came with, as Qwen's, stay; those that croc added for the image token go.
    return int(image_id) if is_last and num_rows <= grown_size(image_id, len(tokenizer)) else num_rows


def write_tower(opened: OpenedModel, folder: Path) -> None:
    """Write the vision tower as a folder of its own, as CLIP's and SigLIP's towers are published."""
    folder.mkdir()
    start = "model.vision_tower."
    tower = {
        "vision_model." + name.removeprefix(start): tensor.contiguous()
        for name, tensor in opened.weights.items()
        if name.startswith(start)
    }
    safetensors.torch.save_file(tower, folder / "model.safetensors", metadata={"format": "pt"})
    is_clip = has_class_token(opened.config.vision_config)
    name = "CLIP" if is_clip else "Siglip"
    config = opened.config.vision_config.to_dict() | {"architectures": [f"{name}VisionModel"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8")
    pictures = opened.processor.image_processor.to_dict()
    names = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")
    switches = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
    kept = {name: pictures[name] for name in (*names, *switches) if name in pictures}
    if not is_clip:
        kept |= {"size": kept["crop_size"]}  # SigLIP's own processor squeezes to a square and has no crop
        kept = {key: value for key, value in kept.items() if key not in ("crop_size", "do_center_crop")}
    preprocessor = {"image_processor_type": f"{name}ImageProcessor", **kept}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2, default=int) + "\n")
    share_weights(folder)


def save_plain_tokenizer(opened: OpenedModel, folder: Path, *, num_rows: int) -> None:
    """Save a tokenizer as transformers 4 reads it, without the tokens from `num_rows` on.

    The original code would grow the model to the tokenizer, were the image token still in it.
    """
    opened.processor.tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    values["added_tokens"] = [
        token for token in values["added_tokens"] if token["id"] < num_rows and token["content"] != IMAGE_TOKEN
    ]
    file.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: values[key] for key in _TOKENIZER_KEYS if values.get(key) is not None}
    kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    if opened.tokenizer_model is not None:
        shutil.copyfile(opened.tokenizer_model, folder / TOKENIZER_MODEL)
        kept |= {"tokenizer_class": "LlamaTokenizer", "legacy": False}
    file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _kind_of(opened: OpenedModel) -> str:
    """Return which of the original codes has such a model.

    Raises:
        UsageError: None has.
    """
    text, vision, norm = opened.config.text_config, opened.config.vision_config, opened.metadata.visual_norm
    if text.model_type == "llama" and has_class_token(vision):
        kind = {"none": "llava_llama", "l2": "croc_llama"}[norm]
    elif text.model_type == "qwen2" and norm == "l2":
        kind = VICTOR
    else:
        raise UsageError(
            "the original codes have Llama with a CLIP tower (LLaVA-1.5, Croc) or Qwen2 with L2-normalised visual "
            f"tokens (ViCToR), not {text.model_type} with {vision.model_type} and visual_norm {norm}",
            hint="--to stock keeps it; serve it with whatever serves transformers' LLaVA",
        )
    if opened.config.projector_hidden_act != "gelu" or not opened.config.multimodal_projector_bias:
        raise UsageError("the original LLaVA code has a projector with GELU and biases, and this model's is another")
    if not isinstance(opened.config.vision_feature_layer, int):
        raise UsageError(
            f"the original LLaVA code takes one layer of the tower, not {opened.config.vision_feature_layer}"
        )
    return kind


def _config(opened: OpenedModel, kind: str, num_rows: int) -> dict[str, Any]:
    """Return the original config.json of a model that was never in that layout."""
    text, tokenizer = opened.config.text_config, opened.processor.tokenizer
    keys = QWEN_KEYS if kind == VICTOR else LLAMA_KEYS
    names = [key for key in keys if hasattr(text, key) and key not in _NOT_WRITTEN]
    is_siglip = not has_class_token(opened.config.vision_config)
    rope = dict(text.rope_parameters or {})
    theta = rope.pop("rope_theta", 10000.0)
    scaled = rope if rope.get("rope_type", "default") != "default" else None
    pad = bool(getattr(opened.processor.image_processor, "do_pad", False))
    return {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        **{name: getattr(text, name) for name in names},
        "rope_theta": theta,
        "rope_scaling": scaled,
        "vocab_size": num_rows,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id if (tokenizer.pad_token_id or 0) < num_rows else 0,
        "image_aspect_ratio": "pad" if pad else "square",
        "mm_hidden_size": opened.config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": (
            "patch" if is_siglip or opened.config.vision_feature_select_strategy == "default" else "cls_patch"
        ),
        "mm_vision_select_layer": -2 if is_siglip else opened.config.vision_feature_layer,
        "mm_vision_tower": "",
        "torch_dtype": str(opened.config.dtype).removeprefix("torch."),
        "use_cache": True,
        "use_mm_proj": True,
        **(_victor_keys(opened) if kind == VICTOR else {}),
    }


def _victor_keys(opened: OpenedModel) -> dict[str, Any]:
    """Return what ViCToR's config.json has beside LLaVA's keys; without a pool it has one of one token, never used."""
    pool = opened.training_state.get(f"{POOL_PREFIX}weight")
    return {POOL_SIZE_KEY: 1 if pool is None else len(pool), "mm_patch_merge_type": "flat"}
