"""The calibration passes: training pictures that the projector or the token pool is to start from."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from croc_cli.data.dataset import Dataset
from croc_cli.data.image import BadImageError, open_image, process_images
from croc_cli.data.sample import Sample
from croc_cli.errors import RunError
from croc_cli.model.projector import CaptionedPictures
from croc_cli.train.calibration import num_calibration_images, sample_visual_tokens
from croc_cli.train.position import POSITION
from croc_cli.train.weights import visual_parts_on
from croc_cli.worker.build import StageParts

_BATCH_IMAGES = 16


def calibration_tokens(parts: StageParts, *, pool_size: int, device: str, generator: torch.Generator) -> Tensor:
    """Return visual tokens [K, D] float32, K ≥ pool_size where the data has images enough.

    Every rank looks at the same pictures, in the order in which training will see them, so all ranks get the same pool
    without telling each other.

    Raises:
        RunError: Where no picture of the stage's data opens.
    """
    needed = num_calibration_images(pool_size, parts.num_visual_tokens)
    model = parts.module.model
    visual: list[Tensor] = []
    doing = ("calibrating the token pool", "calibrated the token pool")
    with (
        visual_parts_on(model.llava, device),
        POSITION.working(*doing, total=needed, unit="pictures", opaque=True) as moved,
    ):
        for pixels in pixel_batches(_samples_in_order(parts), parts.processor.image_processor, needed):
            visual += list(model.encode_images(pixels.to(device)))
            moved(len(visual))
    if not visual:
        raise RunError("no picture of the reconstruct data opens", hint="croc needs some to start the token pool from")
    return sample_visual_tokens(visual, generator=generator)


def pixel_batches(samples: Iterable[Sample], image_processor: Any, num_images: int) -> list[Tensor]:
    """Return the first `num_images` pictures of some samples that open, in order, as batches [b, 3, H, W]."""
    pictures: list[Image.Image] = []
    for sample in samples:
        for reference in sample.images:
            try:
                pictures.append(open_image(reference))
            except BadImageError:
                continue  # the training loop names and counts it when its turn comes
        if len(pictures) >= num_images:
            break
    batches = (pictures[first : first + _BATCH_IMAGES] for first in range(0, len(pictures), _BATCH_IMAGES))
    return [process_images(batch, image_processor) for batch in batches]


def captioned_batches(
    samples: Iterable[Sample], image_processor: Any, tokenizer: Any, num_images: int
) -> Iterator[CaptionedPictures]:
    """Yield the first `num_images` pictures that open, of samples with one picture, with all that answers say of it."""
    described = islice(_described_pictures(samples, tokenizer), num_images)
    while batch := list(islice(described, _BATCH_IMAGES)):
        pictures, captions = zip(*batch, strict=True)
        yield CaptionedPictures(process_images(pictures, image_processor), captions)


def _described_pictures(samples: Iterable[Sample], tokenizer: Any) -> Iterator[tuple[Image.Image, list[int]]]:
    for sample in samples:
        if len(sample.images) != 1:
            continue
        try:
            picture = open_image(sample.images[0])
        except BadImageError:
            continue  # the training loop names and counts it when its turn comes
        said = " ".join(turn.text for turn in sample.turns if turn.role == "gpt")
        yield picture, tokenizer(said, add_special_tokens=False)["input_ids"]


def drawn_samples(dataset: Dataset, *, seed: int) -> Iterator[Sample]:
    """Yield a data set's samples in an order drawn from `seed`: rows of one source often lie side by side."""
    for index in torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)):
        yield dataset[int(index)]


def _samples_in_order(parts: StageParts) -> Iterator[Sample]:
    """Yield the stage's samples in the order in which training takes them."""
    for step in range(parts.loader.sampler.num_steps):
        for index in parts.loader.sampler.global_batch(step):
            yield parts.loader.dataset[index]
