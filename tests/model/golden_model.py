"""A tiny checkpoint of the released code, opened as a stock LLaVA with its token pool and reconstruction head.

It is in the format that LLaVA and Croc publish: vision tower, projector and pool beside the LLM inside `model.`, the
head as `transform_block.`. `golden/` holds it (without the cross-attention that the released code never calls), and
what the released code computed with it in one forward and backward of stage 1.5 (float32, CPU, no dropout).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from croc_cli.model.reconstruction import BertHead, build_head
from croc_cli.model.token_pool import TokenPool

IMAGE_TOKEN_ID = 319
"""The last token of the vocabulary, which no golden case uses, stands for LLaVA's -200."""

_LLAVA_NAMES = (
    ("model.vision_tower.vision_tower.", "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("lm_head.", "lm_head."),
    ("model.", "model.language_model."),
)
_HEAD_NAMES = (
    ("transform_block.layers.0.", "layer."),
    ("transform_block.", ""),
)


@dataclass
class GoldenModel:
    """The parts, with the checkpoint's weights; pool and head where the checkpoint has them."""

    llava: LlavaForConditionalGeneration
    pool: TokenPool | None
    head: BertHead | None
    num_visual_tokens: int


def load_golden_model(folder: Path, *, vision_config: Path) -> GoldenModel:
    """Open the checkpoint in `folder`; the config of its tower is a file of its own."""
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    vision = CLIPVisionConfig.from_json_file(vision_config)
    num_visual = (vision.image_size // vision.patch_size) ** 2
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text = LlamaConfig(
        **{name: config[name] for name in names},
        num_key_value_heads=config["num_key_value_heads"],
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=config["rms_norm_eps"],
        pad_token_id=0,
    )
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=IMAGE_TOKEN_ID,
            vision_feature_layer=config["mm_vision_select_layer"],
        )
    )
    loaded = {
        _rename(name, _LLAVA_NAMES): tensor
        for name, tensor in weights.items()
        if not name.startswith(("transform_block.", "model.cross_attention.", "model.mask_token"))
    }
    own_names = llava.state_dict().keys()
    loaded = {_without_missing_level(name, own_names): tensor for name, tensor in loaded.items()}
    llava.load_state_dict(loaded)
    pool, head = None, None
    if "model.mask_token" in weights:
        pool = TokenPool(*weights["model.mask_token"].shape)
        pool.load_state_dict({"weight": weights["model.mask_token"]})
        head = build_head("bert", config["hidden_size"], 576, 0.1)
        assert isinstance(head, BertHead)
        block = {name: tensor for name, tensor in weights.items() if name.startswith("transform_block.")}
        head.load_state_dict({_rename(name, _HEAD_NAMES): tensor for name, tensor in block.items()})
        head.eval()
    return GoldenModel(llava.eval(), pool, head, num_visual)


def expand_images(case: dict[str, Tensor], *, num_visual: int) -> dict[str, Tensor]:
    """Give each image token n places, cut padding off and fill up on the right, as a collator does."""
    rows, rows_labels = [], []
    labels = case.get("labels", torch.full_like(case["input_ids"], -100))
    for ids, keep, row_labels in zip(case["input_ids"], case["attention_mask"].bool(), labels, strict=True):
        counts = torch.where(ids[keep] == -200, num_visual, 1)
        rows.append(torch.where(ids[keep] == -200, IMAGE_TOKEN_ID, ids[keep]).repeat_interleave(counts))
        rows_labels.append(row_labels[keep].repeat_interleave(counts))
    lengths = torch.tensor([len(row) for row in rows])
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True, padding_value=0),
        "labels": pad(rows_labels, batch_first=True, padding_value=-100),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        "image_rows": torch.arange(len(rows)),
        "image_is_real": torch.ones(len(rows), dtype=torch.bool),
        "pixel_values": case["pixel_values"],
    }


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for start, new in table:
        if name.startswith(start):
            return new + name[len(start) :]
    raise KeyError(name)


def _without_missing_level(name: str, own_names: object) -> str:
    """Drop the tower's `vision_model.` level where this version of transformers has none."""
    shorter = name.replace("model.vision_tower.vision_model.", "model.vision_tower.")
    return shorter if shorter in own_names else name  # type: ignore[operator]
