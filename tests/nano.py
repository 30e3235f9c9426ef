"""The nano model as align finds it: assembled from the backbones of the package, its projector fitted to captions."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor

from croc_cli.demo.language import BRIEF_FORMS, brief_caption
from croc_cli.demo.pretrain.backbones import LLM, VISION_TOWER
from croc_cli.demo.pretrain.tower import draw_pixels, normalise
from croc_cli.demo.scenes import sample_scene
from croc_cli.model.build import assemble
from croc_cli.model.projector import CaptionedPictures

_NUM_PICTURES = 240
"""Fewer than the fit asks for: enough for answers that differ with the picture."""


def assemble_nano(folder: Path) -> Path:
    """Write the untrained nano model, and return where."""

    def pictures(needed: int, tokenizer: Any) -> list[CaptionedPictures]:
        scenes = [sample_scene(3, "train", row) for row in range(min(needed, _NUM_PICTURES))]
        said = [brief_caption(scene, BRIEF_FORMS[row % len(BRIEF_FORMS)]) for row, scene in enumerate(scenes)]
        captions = tokenizer(said, add_special_tokens=False)["input_ids"]
        return [CaptionedPictures(normalise(draw_pixels(scenes)), captions)]

    assemble(
        VISION_TOWER,
        LLM,
        folder,
        seed=3,
        vision_feature_layer=-2,
        image_processor=AutoImageProcessor.from_pretrained(VISION_TOWER),
        chat_template=None,
        dtype=torch.float32,
        pictures=pictures,
    )
    return folder
