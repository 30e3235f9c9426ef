"""What a model that L2-normalises its visual tokens loses where nobody does so, measured on one picture."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw

from croc_cli.names import IMAGE_TOKEN

_PROMPT = f"USER: {IMAGE_TOKEN}\nDescribe this picture. ASSISTANT: The picture shows"


@dataclass(frozen=True)
class NormLoss:
    """How far a model is from itself without the norm of its visual tokens.

    Args:
        mean_length: Mean length of a visual token before the norm, which makes it 1.
        largest_difference: Largest difference of a logit.
        agreement: Share of text positions whose likeliest next token is the same.
    """

    mean_length: float
    largest_difference: float
    agreement: float

    def __str__(self) -> str:
        return (
            f"its visual tokens have length {self.mean_length:.2f} instead of 1, logits differ by up to "
            f"{self.largest_difference:.2g}, and the likeliest next word stays at {self.agreement:.0%} of the places "
            "(measured on one drawn picture)"
        )


@torch.inference_mode()
def measure_norm_loss(llava: Any, processor: Any) -> NormLoss:
    """Run a model with and without the norm on a drawn picture and a short prompt."""
    inputs = processor(images=_picture(), text=_PROMPT, return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].to(llava.dtype)
    llava.eval()
    projector = llava.model.multi_modal_projector
    lengths: list[torch.Tensor] = []

    def normalise(_module: Any, _inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
        lengths.append(tokens.float().norm(dim=-1))
        return torch.nn.functional.normalize(tokens, dim=-1)

    without = llava(**inputs).logits.float()
    handle = projector.register_forward_hook(normalise)
    exact = llava(**inputs).logits.float()
    handle.remove()
    text = inputs["input_ids"] != llava.config.image_token_id
    same = (without.argmax(dim=-1) == exact.argmax(dim=-1))[text]
    difference = (without - exact)[text].abs().max()
    return NormLoss(float(lengths[0].mean()), float(difference), float(same.float().mean()))


def _picture() -> Image.Image:
    """Return a red disc and a blue bar on grey: enough to see, and the same everywhere."""
    picture = Image.new("RGB", (320, 240), (180, 180, 180))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((40, 60, 160, 180), fill=(200, 30, 30))
    draw.rectangle((200, 40, 270, 210), fill=(30, 60, 200))
    return picture
