"""Counts the tokens of a mix's rows with the real tokenizer; what runs in the processes that `croc data mix` starts."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from croc_cli.data.conversation import ConversationEncoder, SampleError
from croc_cli.data.dataset import MixDataset
from croc_cli.data.sentencepiece_merges import repair_merges
from croc_cli.names import IMAGE_TOKEN
from croc_cli.recipe.template_options import NO_OPTIONS, TemplateOptions
from croc_cli.sources.mix.lengths import Counting, length_key, template_key
from croc_cli.sources.read.scan import estimate_tokens

NO_LIMIT = 1 << 40
"""A length that no conversation is cut to."""


def tokenizer_key(tokenizer: Any, template: str, options: TemplateOptions = NO_OPTIONS) -> str:
    """Return the name of the lengths that a tokenizer gives in a template.

    An image placeholder that training added to the tokenizer changes nothing, nor does how its files were saved.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [token for token in parts["added_tokens"] if token["content"] != IMAGE_TOKEN]
    described = {
        **{name: parts[name] for name in ("normalizer", "pre_tokenizer", "model")},
        "added_tokens": kept,
        "leading": [token_id for token_id in tokenizer("a").input_ids if token_id in tokenizer.all_special_ids],
        "eos": tokenizer.eos_token_id,
        "chat_template": tokenizer.chat_template if template == "chat_template" else None,
    }
    return length_key(described, template_key(template, options))


def current_key(counting: Counting) -> str | None:
    """Return the name of the lengths that are to be counted, or None where the tokenizer is not on this machine."""
    opened = _opened(counting)
    return None if opened is None else opened[1]


def count_rows(counting: Counting, folder: Path, places: list[int]) -> tuple[list[int], int]:
    """Count the tokens of some of a mix's rows.

    Args:
        counting: Which tokenizer and template.
        folder: Of the mix.
        places: Of the rows in the mix's order.

    Returns:
        Each row's tokens without those of its images, at least 1, and how many rows the template does not take: their
        lengths are estimates.
    """
    opened = _opened(counting)
    assert opened is not None  # `current_key` said that it is here
    dataset = _mix(folder)
    counts, num_estimated = [], 0
    for place in places:
        sample = dataset[place]
        try:
            encoded = opened[0].encode(sample.turns, num_images=len(sample.images))
            counts.append(max(1, len(encoded.input_ids) - len(sample.images)))
        except SampleError:
            counts.append(estimate_tokens([turn.text for turn in sample.turns]))
            num_estimated += 1
    return counts, num_estimated


@lru_cache(maxsize=1)
def _opened(counting: Counting) -> tuple[ConversationEncoder, str] | None:
    from croc_cli.data.local_encoder import local_tokenizer

    tokenizer = local_tokenizer(counting.llm, revision=counting.revision)
    if tokenizer is None:
        return None
    repair_merges(tokenizer)  # as the tokenizer of every checkpoint is
    encoder = ConversationEncoder(
        tokenizer,
        template=counting.template,
        image_token_id=len(tokenizer),
        num_visual_tokens=1,
        max_length=NO_LIMIT,
        options=counting.options,
    )
    return encoder, tokenizer_key(tokenizer, counting.template, counting.options)


@lru_cache(maxsize=1)
def _mix(folder: Path) -> MixDataset:
    return MixDataset(folder)
