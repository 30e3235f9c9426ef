"""Micro-batches for the tiny LLaVA of `tests.tiny`, written down as rows of text tokens and images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from croc_cli.model.lmm import MultimodalModel, MultimodalOutput
from croc_cli.objectives.caption import caption_loss_sum
from croc_cli.objectives.reconstruction import reconstruction_loss_sum
from tests.tiny import IMAGE_SIZE, NUM_VISUAL_TOKENS, make_tiny_model

IMAGE = "image"
LABELLED = 200
"""Text tokens from here on are trained."""

Batch = dict[str, Any]


def picture(seed: int) -> Tensor:
    """Return [3, H, W], noise of unit spread."""
    return torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))


def make_batch(rows: Sequence[Sequence[int | str]], *, num_blanks: int = 0, num_masked: int = 0) -> Batch:
    """Return a micro-batch of rows such as `[1, IMAGE, 17, 201]`; blanks without a place come after the real images."""
    image_id = make_tiny_model().config.image_token_id
    ids: list[list[int]] = []
    image_rows: list[int] = []
    for number, row in enumerate(rows):
        ids.append([])
        for piece in row:
            ids[-1] += [image_id] * NUM_VISUAL_TOKENS if isinstance(piece, str) else [piece]
            image_rows += [number] if isinstance(piece, str) else []
    lengths = torch.tensor([len(row) for row in ids])
    input_ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    trained = (input_ids >= LABELLED) & (input_ids != image_id)
    num_real = len(image_rows)
    pictures = [picture(number) for number in range(num_real)]
    masked = torch.zeros(num_real + num_blanks, NUM_VISUAL_TOKENS, dtype=torch.bool)
    for number, places in enumerate(masked):
        order = torch.randperm(NUM_VISUAL_TOKENS, generator=torch.Generator().manual_seed(number))
        places[order[:num_masked]] = True
    return {
        "input_ids": input_ids,
        "labels": torch.where(trained, input_ids, -100),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        "pixel_values": torch.stack(pictures + [torch.zeros(3, IMAGE_SIZE, IMAGE_SIZE)] * num_blanks),
        "image_rows": torch.tensor(image_rows + [-1] * num_blanks),
        "image_is_real": torch.tensor([True] * num_real + [False] * num_blanks),
        "masked": masked,
    }


def losses(output: MultimodalOutput, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return caption sum and reconstruction sum, with the paper's settings."""
    reconstruction = reconstruction_loss_sum(
        output.visual_hidden, output.visual_targets, batch["masked"], batch["image_is_real"]
    )
    return caption_loss_sum(output.logits, output.labels), reconstruction.total


def gradients(model: MultimodalModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Return the loss of a batch and every parameter's gradient."""
    model.zero_grad(set_to_none=True)
    output = model(**batch)
    caption, reconstruction = losses(output, batch)
    loss = caption + 10 * reconstruction + output.zero
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}
