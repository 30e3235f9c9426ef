"""Puts a BPE tokenizer's merges in the order of its SentencePiece scores, which decides how runs of spaces are cut.

transformers (5.23) reads a `tokenizer.model` with the merges in the order of the ids. Llama's runs of spaces have early
ids and the worst score of all, so "a  b" becomes `a ▁▁ b`, where SentencePiece, as LLaVA uses it, has `a ▁ ▁b`.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


def order_merges_by_score(specification: dict[str, Any], tokenizer: Any) -> None:
    """Reorder the merges of a tokenizer's specification by score, if its `tokenizer.model` is at hand.

    Args:
        specification: What `Tokenizer.to_str` gives, parsed; changed in place.
        tokenizer: The `transformers` tokenizer that it comes from.
    """
    model = specification["model"]
    file = Path(getattr(tokenizer, "vocab_file", None) or "")
    if model["type"] != "BPE" or file.name != "tokenizer.model" or not file.is_file():
        return
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(str(file))
    scores = {pieces.id_to_piece(index): pieces.get_score(index) for index in range(len(pieces))}
    if any("".join(merge) not in scores for merge in model["merges"]):
        return  # another vocabulary's file
    model["merges"].sort(key=lambda merge: -scores["".join(merge)])


def repair_merges(tokenizer: Any) -> None:
    """Put a `transformers` tokenizer's merges in the order of its scores, in place, so that it is saved with them."""
    specification = json.loads(tokenizer.backend_tokenizer.to_str())
    order_merges_by_score(specification, tokenizer)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(specification))
