"""Where answers look: attention of answer tokens to visual tokens and to the instruction (the paper's Fig. 8).

Attention weights of a whole sequence are layers × heads × T × T numbers; here only the rows of answer tokens are
computed, a few at a time, beside the stock kernel that computes the answer.

Letters: H attention heads, G heads of keys, T tokens of a sequence, R tokens of the answer, d size of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from croc_cli.checkpoint.load import LoadedModel
from croc_cli.data.image import open_image, process_images
from croc_cli.data.sample import ImageRef
from croc_cli.eval.runner import end_tokens

KERNEL = "croc_recorded"
BLOCK_ELEMENTS = 1 << 24
"""Attention weights that are held at once: 64 MB in float32."""


@dataclass(frozen=True)
class AnswerAttention:
    """Where one answer looked.

    Args:
        weights: [R, T] float32, mean over layers and heads; row = token of the answer.
        kinds: T letters: `v` visual, `i` instruction (what follows the picture up to the answer), `b` before it, `a`
            the answer so far.
        answer: What was answered.
        instruction: The instruction's tokens as text.
    """

    weights: Tensor
    kinds: str
    answer: str
    instruction: list[str]


class AttentionRecorder:
    """Adds up attention weights of the last R queries over layers.

    Args:
        num_rows: R.
        block_elements: Weights that are held at once.
    """

    def __init__(self, num_rows: int, *, block_elements: int = BLOCK_ELEMENTS) -> None:
        self.num_rows = num_rows
        self.block_elements = block_elements
        self.num_layers = 0
        self.sum: Tensor | None = None

    def add(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer: query [1, H, T, d], key [1, G, T, d] of a causal sequence without padding."""
        heads, length = query.shape[1], query.shape[2]
        key = key.repeat_interleave(heads // key.shape[1], dim=1)
        first = length - self.num_rows
        rows = max(1, self.block_elements // (heads * length))
        parts = []
        for start in range(first, length, rows):
            end = min(start + rows, length)
            scores = (query[:, :, start:end].float() @ key.float().transpose(2, 3)) * scaling
            later = torch.arange(length, device=key.device) > torch.arange(start, end, device=key.device)[:, None]
            weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
            parts.append(weights.mean(dim=1)[0])
        layer = torch.cat(parts).cpu()
        self.sum = layer if self.sum is None else self.sum + layer
        self.num_layers += 1

    def mean(self) -> Tensor:
        """Return [R, T] float32, the mean over layers."""
        assert self.sum is not None, "no layer ran"
        return self.sum / self.num_layers


@contextmanager
def recorded(language_model: Any, recorder: AttentionRecorder) -> Iterator[None]:
    """Let every attention layer of an LLM tell the recorder, and compute what it always does."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
    ) -> tuple[Tensor, None]:
        scaling = settings.get("scaling")
        recorder.add(query, key, query.shape[-1] ** -0.5 if scaling is None else float(scaling))
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return output

    AttentionInterface.register(KERNEL, attend)
    AttentionMaskInterface.register(KERNEL, sdpa_mask)
    before = language_model.config._attn_implementation
    language_model.config._attn_implementation = KERNEL
    try:
        yield
    finally:
        language_model.config._attn_implementation = before


@torch.inference_mode()
def attend_to_picture(
    model: LoadedModel,
    prompt_ids: list[int],
    picture: ImageRef,
    *,
    max_new_tokens: int,
    block_elements: int = BLOCK_ELEMENTS,
) -> AnswerAttention:
    """Answer a question about one picture, greedily, and return where the answer's tokens looked.

    Args:
        model: The model.
        prompt_ids: The question up to where the answer begins, with the places of one picture.
        picture: The picture.
        max_new_tokens: Tokens of the answer at most.
        block_elements: Weights that are held at once.

    Raises:
        BadImageError: The picture does not open.
    """
    llava, processor = model.llava, model.processor
    prepared = process_images([open_image(picture)], processor.image_processor)
    pixels = prepared.to(llava.device, llava.dtype)
    prompt = torch.tensor([prompt_ids], device=llava.device)
    ids = llava.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        pixel_values=pixels,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=processor.tokenizer.pad_token_id,
        eos_token_id=end_tokens(llava, processor),
    )
    answer_ids = ids[0, len(prompt_ids) :].tolist()
    weights = attention_of_answer(model, ids, pixels, num_answer=len(answer_ids), block_elements=block_elements)
    kinds = token_kinds(prompt_ids, llava.config.image_token_id, num_answer=len(answer_ids))
    instruction = [token for token, kind in zip(prompt_ids, kinds, strict=False) if kind == "i"]
    words = [processor.tokenizer.decode([token]) for token in instruction]
    answer = processor.tokenizer.decode(answer_ids, skip_special_tokens=True).strip()
    return AnswerAttention(weights, kinds, answer, words)


@torch.inference_mode()
def attention_of_answer(
    model: LoadedModel, ids: Tensor, pixels: Tensor, *, num_answer: int, block_elements: int = BLOCK_ELEMENTS
) -> Tensor:
    """Return [R, T] float32, the mean attention over layers and heads of an answer that already exists.

    Args:
        model: The model.
        ids: [1, T] int64, prompt and answer.
        pixels: [P, 3, H, W], the prompt's pictures in order.
        num_answer: R, tokens of the answer at the end of `ids`.
        block_elements: Weights that are held at once.
    """
    recorder = AttentionRecorder(num_answer, block_elements=block_elements)
    with recorded(model.llava.model.language_model, recorder):
        model.llava(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            use_cache=False,
            logits_to_keep=1,
        )
    return recorder.mean()


def token_kinds(prompt_ids: list[int], image_token_id: int, *, num_answer: int) -> str:
    """Return a letter for each token, see `AnswerAttention.kinds`."""
    visual = [place for place, token in enumerate(prompt_ids) if token == image_token_id]
    last = visual[-1] if visual else -1
    letters = [
        "v" if token == image_token_id else "i" if place > last else "b" for place, token in enumerate(prompt_ids)
    ]
    return "".join(letters) + "a" * num_answer
