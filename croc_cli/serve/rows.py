"""A model that adds a token to several texts at once, each of which began when it wanted to.

Letters: B rows, J rows that join, V words of the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlavaForConditionalGeneration
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from croc_cli.serve.cache import RowsCache

_TRIED_LENGTHS = (24, 3)
"""Tokens of the texts that a model is tried with; far apart, so that a wrong position changes a lot."""
_CLOSE = 0.05
"""Difference of logits, as a share of their spread, that bfloat16 explains and a wrong position does not."""


class Rows:
    """Texts under way, in rows.

    Args:
        llava: The model, in eval mode.
        pad: Token that pads.
    """

    def __init__(self, llava: LlavaForConditionalGeneration, pad: int) -> None:
        self._llava = llava
        self._pad = pad
        self._cache = RowsCache()

    def read(self, texts: Sequence[list[int]], pictures: Sequence[Tensor] = ()) -> tuple[Tensor, DynamicCache]:
        """Read the beginnings of some texts, which are not among the rows yet.

        Args:
            texts: J lists of token ids, visual places included.
            pictures: [1, 3, H, W] each, all pictures of all texts in order.

        Returns:
            [J, V] logits of the next token, and the keys and values for `add`.
        """
        device = self._llava.device
        longest = max(map(len, texts))
        ids = torch.tensor([[self._pad] * (longest - len(text)) + text for text in texts], device=device)
        mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts], device=device)
        cache = DynamicCache()
        logits = self._llava(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **visual_inputs(self._llava, pictures),
        ).logits[:, -1]
        return logits, cache

    def add(self, read: DynamicCache, number: int, length: int) -> None:
        """Put a text that was read behind the rows: number `number` of its batch, of so many tokens."""
        self._cache.add(read, number, length)

    def remove(self, row: int) -> None:
        """Take a row out; the last row gets its place."""
        self._cache.remove(row)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Add a token to each row, and return [B, V] logits of the next one."""
        mask, positions = self._cache.begin_step(self._llava.device)
        logits: Tensor = self._llava(
            input_ids=torch.tensor(tokens, device=self._llava.device)[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self._cache.end_step()
        return logits


def visual_inputs(llava: LlavaForConditionalGeneration, pictures: Sequence[Tensor]) -> dict[str, Any]:
    """Return what a model takes in place of pixels: the visual tokens of some pictures."""
    if not pictures:
        return {}
    pixels = torch.cat(list(pictures)).to(llava.device, llava.dtype)
    features = llava.get_image_features(pixels).pooler_output
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}


@torch.inference_mode()
def why_not_in_rows(llava: LlavaForConditionalGeneration, pad: int) -> str | None:
    """Return why a model's texts cannot be kept in rows, or None where they can.

    Rows need keys and values of all tokens in every layer, and positions that the model takes from its input. The
    first is looked up, and whether the model then says the same as without rows is tried with two short texts.
    """
    config = llava.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    for layer in DynamicCache(config=config).layers:
        slides = type(layer) is DynamicSlidingWindowLayer and (longest is None or layer.sliding_window < longest)
        if slides or type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return f"its cache has a {type(layer).__name__}"
    usable = [token for token in range(config.vocab_size) if token not in (pad, llava.config.image_token_id)]
    words = usable[:: max(1, len(usable) // (_TRIED_LENGTHS[0] + 1))]
    texts = [words[: _TRIED_LENGTHS[0] + 1], words[-_TRIED_LENGTHS[1] - 1 :]]
    try:
        expected = torch.stack([llava(input_ids=torch.tensor([t], device=llava.device)).logits[0, -1] for t in texts])
        rows = Rows(llava, pad)
        for text in texts:
            rows.add(rows.read([text[:-1]])[1], 0, len(text) - 1)
        found = rows.step([text[-1] for text in texts])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a family of models does not take
        return f"it does not take them ({type(error).__name__})"
    spread = (expected - expected.mean(dim=-1, keepdim=True)).float().norm()
    difference = (found - expected).float().norm() / spread
    return None if difference < _CLOSE else "its answers would change"


def depends_on_others(llava: LlavaForConditionalGeneration) -> bool:
    """Tell whether positions mean something else beside a longer text: rotary angles that grow with the longest."""
    parameters = getattr(llava.config.get_text_config(), "rope_parameters", None) or {}
    by_layer = [one for one in parameters.values() if isinstance(one, dict)]
    return any(one.get("rope_type") in ("dynamic", "longrope") for one in (parameters, *by_layer))
