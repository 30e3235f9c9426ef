"""What stage 1.5 makes of a picture: which pool tokens took the masked places, what came back, the caption from it.

Letters: I pictures, n visual tokens of a picture, m masked ones, N pool tokens, G tokens of the gallery, D hidden size,
T tokens of a prompt, R tokens of the captions so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from croc_cli.model.lmm import MultimodalModel, MultimodalOutput
from croc_cli.names import IGNORE_INDEX

_BLOCK = 256
"""Tokens whose distances to the gallery are computed at once."""


@dataclass(frozen=True)
class MaskedInputs:
    """Prompts about pictures, one each, all of the same length.

    Args:
        input_ids: [I, T] int64.
        pixel_values: [I, 3, H, W].
        masked: [I, n] bool; None where the stage masks nothing.
    """

    input_ids: Tensor
    pixel_values: Tensor
    masked: Tensor | None


@torch.inference_mode()
def run_masked(model: MultimodalModel, inputs: MaskedInputs, answers: Tensor | None = None) -> MultimodalOutput:
    """Run the model as in training, with pool tokens in the masked places.

    Args:
        model: With its pool.
        inputs: I prompts.
        answers: [I, R] int64, the captions so far; they count as labels, so that every attention kind sees the prompt
            as it does in training.
    """
    count = len(inputs.input_ids)
    answers = inputs.input_ids.new_zeros(count, 0) if answers is None else answers
    input_ids = torch.cat([inputs.input_ids, answers], dim=1)
    labels = torch.cat([torch.full_like(inputs.input_ids, IGNORE_INDEX), answers], dim=1)
    output: MultimodalOutput = model(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        labels=labels,
        pixel_values=inputs.pixel_values,
        image_is_real=torch.ones(count, dtype=torch.bool, device=input_ids.device),
        image_rows=torch.arange(count, device=input_ids.device),
        masked=inputs.masked,
    )
    return output


def write_captions(
    model: MultimodalModel, inputs: MaskedInputs, *, end_ids: Sequence[int], max_tokens: int
) -> list[list[int]]:
    """Return the token ids of greedy captions, written from pictures whose masked places the pool filled.

    Attention is that of the stage, so each token takes a pass over the whole sequence.

    Args:
        model: With its pool.
        inputs: I prompts that end where the answer begins.
        end_ids: Tokens that end a caption.
        max_tokens: Tokens of a caption at most.
    """
    count = len(inputs.input_ids)
    # The token after the last one is unknown and seen by none before it: any id stands for it.
    answers = inputs.input_ids.new_zeros(count, 0)
    unknown = inputs.input_ids.new_zeros(count, 1)
    done = torch.zeros(count, dtype=torch.bool, device=unknown.device)
    ends = torch.tensor(list(end_ids), device=unknown.device)
    for _ in range(max_tokens):
        logits = run_masked(model, inputs, torch.cat([answers, unknown], dim=1)).logits
        following = logits.view(count, -1, logits.shape[-1])[:, -1].argmax(dim=-1)
        answers = torch.cat([answers, following[:, None]], dim=1)
        done |= torch.isin(following, ends)
        if bool(done.all()):
            break
    captions = []
    for row in answers.tolist():
        stop = next((place for place, token in enumerate(row) if token in end_ids), len(row))
        captions.append(row[:stop])
    return captions


@torch.inference_mode()
def nearest_tokens(tokens: Tensor, gallery: Tensor) -> list[int]:
    """Return for each of `tokens` [K, D] the nearest of `gallery` [G, D], by L2 distance."""
    found: list[int] = []
    for start in range(0, len(tokens), _BLOCK):
        found += torch.cdist(tokens[start : start + _BLOCK].float(), gallery.float()).argmin(dim=1).tolist()
    return found


class PatchGallery:
    """Patches of pictures, each with its visual token: what a token would look like.

    Args:
        tokens: [J, n, D], visual tokens of J pictures.
        pictures: Those pictures, squares of the same size.
    """

    def __init__(self, tokens: Tensor, pictures: Sequence[Image.Image]) -> None:
        self.tokens = tokens.flatten(0, 1)
        self.side = round(tokens.shape[1] ** 0.5)
        self._patches = [patch for picture in pictures for patch in cut(picture, self.side)]

    def patch(self, index: int) -> Image.Image:
        """Return the patch of a token by its number in `tokens`."""
        return self._patches[index]


def cut(picture: Image.Image, side: int) -> list[Image.Image]:
    """Return a square picture's side × side patches, row by row."""
    step = picture.width / side
    boxes = [
        (round(column * step), round(row * step), round((column + 1) * step), round((row + 1) * step))
        for row in range(side)
        for column in range(side)
    ]
    return [picture.crop(box) for box in boxes]


def mosaic(picture: Image.Image, side: int, patches: dict[int, Image.Image | None]) -> Image.Image:
    """Return a picture with some of its patches replaced; None leaves a grey hole.

    Args:
        picture: A square.
        side: Patches along a side.
        patches: Position → what takes its place.
    """
    made = picture.copy()
    step = picture.width / side
    for place, patch in patches.items():
        row, column = divmod(place, side)
        box = (round(column * step), round(row * step), round((column + 1) * step), round((row + 1) * step))
        size = (box[2] - box[0], box[3] - box[1])
        made.paste(patch.resize(size) if patch is not None else Image.new("RGB", size, _HOLE), box)
    return made


_HOLE = (128, 128, 128)


def picture_of(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Return what the tower sees, [3, H, W] normalised, as a picture."""
    shape = (3, 1, 1)
    values = pixels.float().cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    array = (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array))
