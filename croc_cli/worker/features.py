"""Fills the cache of the frozen tower's features before a stage trains, each rank its share of the pictures."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from croc_cli.data.features import FeatureCache, picture_key
from croc_cli.data.image import BadImageError, open_image, process_images
from croc_cli.data.sample import ImageRef
from croc_cli.errors import RunError, UsageError
from croc_cli.files import free_disk
from croc_cli.model.projector import projector_inputs
from croc_cli.train.collectives import barrier, gather_from_ranks, num_ranks, rank
from croc_cli.train.position import POSITION
from croc_cli.train.weights import visual_parts_on
from croc_cli.worker.build import StageParts

_BATCH_IMAGES = 8


def use_feature_cache(parts: StageParts, folder: Path, *, device: str, say: Callable[[str], None]) -> FeatureCache:
    """Compute what the cache lacks of a stage's pictures, and have the stage's loader read features from it.

    Every rank must call it. Pictures that do not open are left to the training loop, which names and counts them.

    Args:
        parts: The stage, before an engine wraps it.
        folder: Of all caches; this one gets a folder of its own in it, by tower, layer and preparation.
        device: Where the tower computes.
        say: Told what disk it needs before it starts, and when it is done.

    Raises:
        UsageError: The stage trains the tower, or its pictures have no files, so kept features would be wrong.
        RunError: The disk is too small.
    """
    check_tower_is_frozen(parts)
    llava = parts.module.model.llava
    with visual_parts_on(llava, device):
        cache = FeatureCache(
            folder / cache_name(parts),
            (parts.num_visual_tokens, llava.config.vision_config.hidden_size),
            next(llava.parameters()).dtype,
        )
        with POSITION.working("listing the pictures", "listed the pictures", opaque=True):
            pictures = distinct_pictures(parts)
        # looked at by one rank alone: the others may have begun to write by the time that they look
        missing = gather_from_ranks(
            [key for key, image in pictures.items() if not cache.has(image)] if not rank() else []
        )
        todo = [pictures[key] for key in missing[0]]
        _check_space(cache, num_missing=len(todo), num_pictures=len(pictures), say=say)
        _write(cache, None, projector_inputs(llava, parts.loader.collator.blank[None].to(device)))
        own = todo[rank() :: num_ranks()]
        doing = ("computing features", "computed features")
        with POSITION.working(*doing, total=len(own), unit="pictures", opaque=True) as moved:
            done = 0
            for images, pixels in _batches(own, parts.processor.image_processor):
                _write(cache, images, projector_inputs(llava, pixels.to(device)))
                done += len(images)
                moved(done)
    barrier()
    parts.loader.collator.features = cache
    return cache


def check_tower_is_frozen(parts: StageParts) -> None:
    """Raise UsageError where a stage gives the vision tower a learning rate."""
    if "vision_tower" in parts.settings.learning_rates:
        raise UsageError(
            "data.cache_features keeps what a frozen vision tower computes, and this stage trains the tower",
            hint="leave data.cache_features out, or learning_rate.vision_tower",
        )


def cache_name(parts: StageParts) -> str:
    """Return a name that changes with all that decides a picture's features: weights, layer, preparation, dtype."""
    llava, digest = parts.module.model.llava, hashlib.sha256()
    for name, weight in sorted(llava.model.vision_tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    preparation = parts.processor.image_processor.to_dict()
    settings = [
        llava.config.vision_config.to_dict(),
        llava.config.vision_feature_layer,
        llava.config.vision_feature_select_strategy,
        str(llava.dtype),
        {key: value for key, value in preparation.items() if not key.startswith("_")},
    ]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def distinct_pictures(parts: StageParts) -> dict[str, ImageRef]:
    """Return the pictures that a stage's steps show, each once, by key, in training order.

    Raises:
        UsageError: One has no file of its own: what draws pictures, or changes them, may show another each time.
    """
    pictures: dict[str, ImageRef] = {}
    seen: set[int] = set()
    for step in range(parts.loader.sampler.num_steps):
        for index in parts.loader.sampler.global_batch(step):
            if index is None or index in seen:
                continue
            seen.add(index)
            for image in parts.loader.dataset[index].images:
                key = picture_key(image)
                if key is None:
                    raise UsageError(
                        f"data.cache_features: the picture {image.name} is made on the fly, so what is kept of it "
                        "may be wrong the next time",
                        hint="leave data.cache_features out",
                    )
                pictures.setdefault(key, image)
    return pictures


def _check_space(cache: FeatureCache, *, num_missing: int, num_pictures: int, say: Callable[[str], None]) -> None:
    """Say what disk the missing features need, and raise RunError on every rank where it is not there."""
    needed, failure = num_missing * cache.picture_bytes, None
    if rank() == 0 and num_missing:
        free = free_disk(cache.folder)
        say(
            f"features of {num_missing:,} of {num_pictures:,} pictures are not in {cache.folder} yet: they take "
            f"{_size(needed)}, and {_size(free)} are free"
        )
        if needed > free:
            failure = f"data.cache_features needs {_size(needed)} in {cache.folder}, and {_size(free)} are free"
    if message := gather_from_ranks(failure)[0]:
        raise RunError(message, hint="name a folder on another disk, or leave data.cache_features out")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _write(cache: FeatureCache, images: list[ImageRef] | None, features: Tensor) -> None:
    """Keep a batch of features; `images` None is the blank, which rank 0 writes."""
    if images is None:
        if rank() == 0:
            cache.write(None, features[0])
        return
    for image, own in zip(images, features, strict=True):
        cache.write(image, own)


def _batches(images: list[ImageRef], image_processor: Any) -> Iterator[tuple[list[ImageRef], Tensor]]:
    """Yield pictures that open with their pixels [b, 3, H, W]."""
    for first in range(0, len(images), _BATCH_IMAGES):
        opened: list[tuple[ImageRef, Any]] = []
        for image in images[first : first + _BATCH_IMAGES]:
            try:
                opened.append((image, open_image(image)))
            except BadImageError:
                continue
        if opened:
            yield [image for image, _ in opened], process_images([picture for _, picture in opened], image_processor)
