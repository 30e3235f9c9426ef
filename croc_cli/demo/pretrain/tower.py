"""Trains the nano vision tower: a CLIP-shaped encoder, by contrast with scenes in words and by labels per patch.

The labels are read by linear heads from the penultimate layer, the one that a LLaVA model takes its visual tokens from,
so that the patch under an object's centre tells all its attributes and every other patch tells that it is none.

Letters: B scenes · P patches of a picture (36) · O objects of a scene, filled up to 4 · H hidden size.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from croc_cli.demo.draw import draw_scene
from croc_cli.demo.scenes import (
    COLOURS,
    COLUMNS,
    IMAGE_SIZE,
    PATCH_SIZE,
    ROWS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    sample_scene,
)

logger = logging.getLogger(__name__)

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "row": ROWS,
    "column": COLUMNS,
}
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
MAX_OBJECTS = 4
NO_LABEL = -100

_IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # the statistics of every CLIP model
_IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
_CONTRAST_TEMPERATURE = 0.1
_CONTRAST_WEIGHT = (
    0.3  # the labels per patch teach what the projector reads; the contrast keeps the last layer CLIP-like
)


@dataclass(frozen=True)
class TowerTraining:
    """How the tower is trained.

    Attributes:
        num_scenes: Different pictures, drawn once and kept in memory.
        num_steps: Optimizer steps.
        batch_size: Pictures a step.
        learning_rate: Peak rate; it warms up and falls along a cosine.
        seed: Of the scenes, the weights and the order.
    """

    num_scenes: int = 24_000
    num_steps: int = 2_000
    batch_size: int = 96
    learning_rate: float = 1.5e-3
    seed: int = 0


def tower_config() -> CLIPVisionConfig:
    """Return the nano tower: 4 layers of 128 dimensions over 6 by 6 patches."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
    )


def image_processor() -> Any:
    """Return the processor that belongs to the tower."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=list(_IMAGE_MEAN),
        image_std=list(_IMAGE_STD),
    )


def attribute_ids(item: SceneObject) -> list[int]:
    """Return the object's value of every attribute, as its index in ATTRIBUTES."""
    return [values.index(getattr(item, name)) for name, values in ATTRIBUTES.items()]


class PatchHeads(nn.Module):
    """Linear readers of the penultimate layer and the text side of the contrast; thrown away after the training."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.is_centre = nn.Linear(hidden_size, 1)
        self.attributes = nn.ModuleList(nn.Linear(hidden_size, len(values)) for values in ATTRIBUTES.values())
        self.words = nn.ModuleList(nn.Embedding(len(values), hidden_size) for values in ATTRIBUTES.values())
        self.object_encoder = nn.Sequential(nn.GELU(), nn.Linear(hidden_size, hidden_size))
        self.picture_encoder = nn.Linear(hidden_size, hidden_size)

    def patch_loss(self, patches: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the labels per patch.

        Args:
            patches: [B, P, H] float.
            labels: [B, P, A] int64, NO_LABEL at patches without an object's centre.
        """
        is_centre = (labels[..., 0] != NO_LABEL).to(patches.dtype)
        centre_loss = functional.binary_cross_entropy_with_logits(self.is_centre(patches).squeeze(-1), is_centre)
        # Three or four of 36 patches are centres; times ten, the two halves of this loss are of one size.
        loss: Tensor = 10.0 * centre_loss
        centres, targets = patches[is_centre.bool()], labels[is_centre.bool()]
        for index, head in enumerate(self.attributes):
            loss = loss + functional.cross_entropy(head(centres), targets[:, index])
        return loss

    def contrast_loss(self, pooled: Tensor, objects: Tensor) -> Tensor:
        """Return CLIP's symmetric loss between pictures and scenes in words.

        Args:
            pooled: [B, H] float, the tower's pooled output.
            objects: [B, O, A] int64, NO_LABEL where there is no further object.
        """
        exists = (objects[..., :1] != NO_LABEL).to(pooled.dtype)
        words = torch.stack([table(objects[..., i].clamp(min=0)) for i, table in enumerate(self.words)]).sum(0)
        texts = functional.normalize((self.object_encoder(words) * exists).sum(1), dim=-1)
        pictures = functional.normalize(self.picture_encoder(pooled), dim=-1)
        logits = pictures @ texts.T / _CONTRAST_TEMPERATURE
        target = torch.arange(len(logits))
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def scene_labels(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Return the labels per patch [B, P, A] and per object [B, O, A], int64, NO_LABEL where there is nothing."""
    patches = np.full((len(scenes), NUM_PATCHES, len(ATTRIBUTES)), NO_LABEL)
    objects = np.full((len(scenes), MAX_OBJECTS, len(ATTRIBUTES)), NO_LABEL)
    for index, scene in enumerate(scenes):
        for position, item in enumerate(scene.objects):
            patches[index, item.patch] = objects[index, position] = attribute_ids(item)
    return torch.from_numpy(patches), torch.from_numpy(objects)


def draw_pixels(scenes: list[Scene]) -> np.ndarray:
    """Draw the scenes: [B, height, width, 3] uint8."""
    return np.stack([np.asarray(draw_scene(scene)) for scene in scenes])


def normalise(pixels: np.ndarray) -> Tensor:
    """Do what the image processor does to pictures of the right size: [B, 3, height, width] float32."""
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(_IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(_IMAGE_STD).view(3, 1, 1)


def train_tower(settings: TowerTraining) -> CLIPVisionModel:
    """Train a tower from nothing; about ten minutes on two CPU cores."""
    torch.manual_seed(settings.seed)
    tower = CLIPVisionModel(tower_config())
    heads = PatchHeads(tower.config.hidden_size)
    scenes = [sample_scene(settings.seed, "pretrain", index) for index in range(settings.num_scenes)]
    pixels = draw_pixels(scenes)
    patch_labels, object_labels = scene_labels(scenes)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=settings.num_steps, pct_start=0.05
    )
    order = np.random.default_rng(settings.seed)
    started = time.monotonic()
    for step in range(settings.num_steps):
        batch = order.integers(settings.num_scenes, size=settings.batch_size)
        output = tower(normalise(pixels[batch]), output_hidden_states=True)
        patch_loss = heads.patch_loss(output.hidden_states[-2][:, 1:], patch_labels[batch])
        contrast_loss = heads.contrast_loss(output.pooler_output, object_labels[batch])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(patch_loss + _CONTRAST_WEIGHT * contrast_loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            elapsed = time.monotonic() - started
            logger.info(
                "tower step %d: patches %.3f, contrast %.3f, %.0f s",
                step + 1,
                patch_loss.item(),
                contrast_loss.item(),
                elapsed,
            )
    logger.info("tower on test scenes: %s", measure_tower(tower, heads, seed=settings.seed))
    return tower


@torch.no_grad()
def measure_tower(tower: CLIPVisionModel, heads: PatchHeads, *, seed: int, num_scenes: int = 400) -> dict[str, float]:
    """Return the share of right labels per attribute at object centres, and of patches rightly told to be a centre."""
    scenes = [sample_scene(seed, "test", index) for index in range(num_scenes)]
    labels, _ = scene_labels(scenes)
    patches = tower(normalise(draw_pixels(scenes)), output_hidden_states=True).hidden_states[-2][:, 1:]
    is_centre = labels[..., 0] != NO_LABEL
    right = {"is_centre": float(((heads.is_centre(patches).squeeze(-1) > 0) == is_centre).float().mean())}
    for index, (name, head) in enumerate(zip(ATTRIBUTES, heads.attributes, strict=True)):
        right[name] = float((head(patches[is_centre]).argmax(-1) == labels[is_centre][:, index]).float().mean())
    right["feature_scale"] = float(patches.std())
    return {name: round(share, 4) for name, share in right.items()}
