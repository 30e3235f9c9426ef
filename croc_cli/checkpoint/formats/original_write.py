"""Writes a model in the layout of the original LLaVA code, or of Croc's where visual tokens are L2-normalised."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from croc_cli import __version__
from croc_cli.checkpoint.formats.original import ORIGINAL_TYPES, original_name
from croc_cli.checkpoint.formats.original_load import CONVERTED_KEY, PROCESSOR_TEMPLATE_KEY
from croc_cli.checkpoint.formats.original_parts import TOWER_FOLDER
from croc_cli.checkpoint.metadata import RECIPE_FILE, TOWER_TRAINED_KEY, share_weights
from croc_cli.checkpoint.opened import TOKENIZER_MODEL, OpenedModel
from croc_cli.errors import UsageError
from croc_cli.launch.weights import combine_hashes, weights_files
from croc_cli.model.vision_tower import has_class_token
from croc_cli.names import METADATA_FILE
from croc_cli.run_dir import sha256_of

_ARCHITECTURES = {"llava_llama": "LlavaLlamaForCausalLM", "croc_llama": "CrocLlamaForCausalLM"}
_CLASS_LEVEL = "model.vision_tower.vision_tower.vision_model."
_TOKENIZER_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token", "model_max_length", "padding_side",
    "clean_up_tokenization_spaces", "add_bos_token", "add_eos_token")  # fmt: skip
"""What transformers 4 reads of a tokenizer_config.json; version 5 has other keys, some of which stop version 4."""
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
    _check_expressible(opened)
    _say_what_lies_beside(opened, say)
    record: Mapping[str, Any] = opened.metadata.extra.get(CONVERTED_KEY, {})
    num_rows = int(record.get("vocab_size") or original_rows(opened))
    weights = original_weights(opened, num_rows=num_rows)
    if not record.get("vision_tower_inside", True):
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(_CLASS_LEVEL)}
    config = dict(record["config"]) if record else _config(opened, num_rows)
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
    _write_beside(opened, folder)


def _say_what_lies_beside(opened: OpenedModel, say: Callable[[str], None]) -> None:
    template = opened.metadata.template
    if template == "chat_template" or (template is None and opened.processor.chat_template):
        say(
            "warning: the original code has no place for this model's chat template and prompts it another way; the "
            f"template goes into {METADATA_FILE}, and croc reads it from there"
        )


def _write_beside(opened: OpenedModel, folder: Path) -> None:
    """Write croc.json and the recipe: what croc needs to open the folder as the model that it was."""
    files = {file.name: sha256_of(file) for file in weights_files(folder)}
    kept = {key: value for key, value in opened.metadata.extra.items() if key != CONVERTED_KEY}
    if opened.processor.chat_template:
        kept[PROCESSOR_TEMPLATE_KEY] = opened.processor.chat_template
    replace(
        opened.metadata, croc_version=__version__, files=files, weights_sha256=combine_hashes(files), extra=kept
    ).write(folder)
    if opened.recipe_yaml is not None:
        (folder / RECIPE_FILE).write_text(opened.recipe_yaml, encoding="utf-8")


def original_weights(opened: OpenedModel, *, num_rows: int) -> dict[str, Tensor]:
    """Return all weights by original names, the vocabulary cut to `num_rows`, what training left beside them too."""
    found: dict[str, Tensor] = {}
    for name, tensor in (*opened.weights.items(), *opened.training_state.items()):
        original = original_name(name)
        if original is None:
            raise UsageError(f"the original layout has no name for {name}", hint="--to stock keeps it")
        found[original] = tensor[:num_rows] if original in _ROWS else tensor
    return found


def original_rows(opened: OpenedModel) -> int:
    """Return the vocabulary's size without the image token, where nothing but a padding token comes after it."""
    tokenizer, image_id = opened.processor.tokenizer, opened.config.image_token_id
    is_last = set(range(image_id + 1, len(tokenizer))) <= {tokenizer.pad_token_id}
    return int(image_id if is_last else opened.config.text_config.vocab_size)


def write_tower(opened: OpenedModel, folder: Path) -> None:
    """Write the vision tower as a folder of its own, as CLIP's towers are published."""
    folder.mkdir()
    start = "model.vision_tower."
    tower = {
        "vision_model." + name.removeprefix(start): tensor.contiguous()
        for name, tensor in opened.weights.items()
        if name.startswith(start)
    }
    safetensors.torch.save_file(tower, folder / "model.safetensors", metadata={"format": "pt"})
    config = opened.config.vision_config.to_dict() | {"architectures": ["CLIPVisionModel"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8")
    pictures = opened.processor.image_processor.to_dict()
    names = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")
    switches = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
    kept = {name: pictures[name] for name in (*names, *switches) if name in pictures}
    preprocessor = {"image_processor_type": "CLIPImageProcessor", **kept}
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
    values["added_tokens"] = [token for token in values["added_tokens"] if token["id"] < num_rows]
    file.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: values[key] for key in _TOKENIZER_KEYS if values.get(key) is not None}
    kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    if opened.tokenizer_model is not None:
        shutil.copyfile(opened.tokenizer_model, folder / TOKENIZER_MODEL)
        kept |= {"tokenizer_class": "LlamaTokenizer", "legacy": False}
    file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_expressible(opened: OpenedModel) -> None:
    text, vision = opened.config.text_config, opened.config.vision_config
    if text.model_type != "llama" or not has_class_token(vision):
        raise UsageError(
            f"the original LLaVA code has Llama with a CLIP tower, not {text.model_type} with {vision.model_type}",
            hint="--to stock keeps it; serve it with whatever serves transformers' LLaVA",
        )
    if opened.config.projector_hidden_act != "gelu" or not opened.config.multimodal_projector_bias:
        raise UsageError("the original LLaVA code has a projector with GELU and biases, and this model's is another")
    if not isinstance(opened.config.vision_feature_layer, int):
        raise UsageError(
            f"the original LLaVA code takes one layer of the tower, not {opened.config.vision_feature_layer}"
        )


def _config(opened: OpenedModel, num_rows: int) -> dict[str, Any]:
    """Return the original config.json of a model that was never in that layout."""
    text, tokenizer = opened.config.text_config, opened.processor.tokenizer
    kind = next(kind for kind, norm in ORIGINAL_TYPES.items() if norm == opened.metadata.visual_norm)
    names = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "attention_bias",
        "attention_dropout", "tie_word_embeddings", "head_dim", "mlp_bias",
    )  # fmt: skip
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
            "patch" if opened.config.vision_feature_select_strategy == "default" else "cls_patch"
        ),
        "mm_vision_select_layer": opened.config.vision_feature_layer,
        "mm_vision_tower": "",
        "torch_dtype": str(opened.config.dtype).removeprefix("torch."),
        "use_cache": True,
        "use_mm_proj": True,
    }
