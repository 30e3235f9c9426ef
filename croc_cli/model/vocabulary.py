"""The image token's place: in the tokenizer, and in the rows of embeddings and LM head.

Letters: V vocabulary size, D the LLM's hidden size.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken

from croc_cli.names import IMAGE_TOKEN

VOCABULARY_MULTIPLE = 64
"""A vocabulary that must grow is filled to a multiple of this, as in llava-hf's checkpoints; tensor cores like it."""


def set_up_tokenizer(tokenizer: Any) -> int:
    """Give a tokenizer an image token, something to pad with, and padding on the right; return the image token's id."""
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))


def grown_size(size: int, num_tokens: int) -> int:
    """Return V of a vocabulary of `size` rows that must hold `num_tokens`: as it is where they fit."""
    if num_tokens <= size:
        return size
    return -(-num_tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def grow_rows(weight: Tensor, size: int) -> Tensor:
    """Return embeddings [V, D] with `size` rows, the new ones the mean of the old; the same where none is new."""
    missing = size - weight.shape[0]
    if missing <= 0:
        return weight
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(missing, -1)])


def make_room(model: Any, num_tokens: int) -> None:
    """Grow an LLM's embeddings to hold `num_tokens`, if they do not; new rows are the mean of the old."""
    old = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= old:
        return
    model.resize_token_embeddings(num_tokens, pad_to_multiple_of=VOCABULARY_MULTIPLE, mean_resizing=False)
    with torch.no_grad():
        for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
            embeddings.weight[old:] = embeddings.weight[:old].float().mean(dim=0).to(embeddings.weight.dtype)


def checked_token_ids(ids: Any, vocab_size: int) -> int | list[int] | None:
    """Return end tokens as a config says them: one id, several, or None.

    Raises:
        ValueError: One of them is not an id of the vocabulary.
    """
    for token in ids if isinstance(ids, list) else [] if ids is None else [ids]:
        if type(token) is not int or not 0 <= token < max(vocab_size, 1):
            raise ValueError(f"eos_token_id holds {token!r}, expected ids below {vocab_size}")
    return ids  # type: ignore[no-any-return]
