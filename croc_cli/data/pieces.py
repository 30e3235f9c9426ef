"""Tokens of pieces of text, so that what was laid together piece by piece equals what was tokenised whole."""

import copy
import itertools
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from tokenizers import Tokenizer

from croc_cli.data.sentencepiece_merges import order_merges_by_score
from croc_cli.errors import UsageError

Place = Literal["start", "after_control", "middle"]

CACHED_PIECES = 4096
LONGEST_CACHED = 400
"""Characters; longer pieces are seldom seen twice."""


class PieceTokenizer:
    """Tokenises pieces of a sequence by the place that they have in it.

    SentencePiece-like tokenizers put a space before a text, and only there. A piece from the middle of a text must not
    get it, and what users wrote must never become a control token, whatever it spells.

    Args:
        tokenizer: A fast `transformers` tokenizer.
        forbidden_ids: Ids that no text may become, besides the tokenizer's special tokens.

    Raises:
        UsageError: The tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any, *, forbidden_ids: frozenset[int] = frozenset()) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise UsageError(
                f"tokenizer {type(tokenizer).__name__} is not a fast one",
                hint="use an LLM whose folder has a tokenizer.json or a tokenizer.model",
            )
        self._bare = _without_prefix(backend, tokenizer)
        self.control_tokens = {
            token.content: (token_id, token) for token_id, token in tokenizer.added_tokens_decoder.items()
        }
        special_ids = frozenset(tokenizer.all_special_ids)
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in forbidden_ids:
            special_ids -= {tokenizer.unk_token_id}
        self._forbidden_ids = forbidden_ids | special_ids
        self._never_read = forbidden_ids
        forbidden_texts = [
            text for text, (token_id, _) in self.control_tokens.items() if token_id in self._forbidden_ids
        ]
        self._forbidden_text = _any_of(forbidden_texts)
        self._control_text = _any_of(list(self.control_tokens))
        self._prefix = "" if self._is_bare(tokenizer, before="") else " "
        self._prefix_after_control = self._prefix
        if tokenizer.eos_token is not None and self._is_bare(tokenizer, before=tokenizer.eos_token):
            self._prefix_after_control = ""
        self.leading_ids = _leading_ids(tokenizer)
        self._cached_encode = lru_cache(maxsize=CACHED_PIECES)(self._encode_bare)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_cached_encode"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cached_encode = lru_cache(maxsize=CACHED_PIECES)(self._encode_bare)

    def encode(self, text: str, place: Place) -> tuple[int, ...]:
        """Return the ids of a piece of text; no special tokens are added, and none are read from the text.

        Args:
            text: The piece.
            place: `start` of a text, which takes the tokenizer's prefix space if it has one (even before a space, as
                the SentencePiece library does); `after_control`, following a control token, as the tokenizer itself
                does it there; `middle`, following other text.
        """
        if not text:
            return ()
        prefix = {"start": self._prefix, "after_control": self._prefix_after_control, "middle": ""}[place]
        piece = prefix + text
        return self._cached_encode(piece) if len(piece) <= LONGEST_CACHED else self._encode_bare(piece)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens written out."""
        text: str = self._bare.decode(list(ids), skip_special_tokens=False)
        return text

    def split_controls(self, text: str) -> list[str | int]:
        """Split text that a template wrote, not a user, into plain texts and the ids of control tokens."""
        if self._control_text is None:
            return [text] if text else []
        parts: list[str | int] = []
        strip_next = False
        for index, part in enumerate(self._control_text.split(text)):
            if index % 2 == 0:
                parts.append(part.lstrip() if strip_next else part)
                continue
            token_id, token = self.control_tokens[part]
            if token.lstrip and isinstance(parts[-1], str):
                parts[-1] = parts[-1].rstrip()
            parts.append(token_id)
            strip_next = token.rstrip
        return [part for part in parts if part != ""]

    def split_spelt(self, text: str) -> list[str | int]:
        """Split a row's text at the control tokens that it spells out, but for those that no text may become."""
        spelt = {token_id: content for content, (token_id, _) in self.control_tokens.items()}
        parts = self.split_controls(text)
        return [spelt[part] if isinstance(part, int) and part in self._never_read else part for part in parts]

    def control_at(self, text: str, position: int) -> re.Match[str] | None:
        """Return the control token that a template wrote at a position, if there is one."""
        return self._control_text.match(text, position) if self._control_text is not None else None

    def _encode_bare(self, text: str) -> tuple[int, ...]:
        ids: list[int] = self._bare.encode(text, add_special_tokens=False).ids
        if self._forbidden_text is None or self._forbidden_ids.isdisjoint(ids):
            return tuple(ids)
        # Tokenised apart after their first character, literal control tokens are no longer found.
        edges = [0, *(match.start() + 1 for match in self._forbidden_text.finditer(text)), len(text)]
        ids = []
        for start, end in itertools.pairwise(edges):
            ids += self._bare.encode(text[start:end], add_special_tokens=False).ids
        return tuple(token_id for token_id in ids if token_id not in self._forbidden_ids)

    def _is_bare(self, tokenizer: Any, *, before: str) -> bool:
        """Say whether a text following `before` gets no prefix space."""
        following: list[int] = tokenizer(before + "a", add_special_tokens=False).input_ids
        bare: list[int] = self._bare.encode("a", add_special_tokens=False).ids
        return following[-len(bare) :] == bare and len(following) == len(bare) + (1 if before else 0)


def _any_of(texts: list[str]) -> re.Pattern[str] | None:
    longest_first = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None


def _leading_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the special tokens that the tokenizer puts before a text, such as BOS."""
    ids: list[int] = tokenizer("a").input_ids
    special = set(tokenizer.all_special_ids)
    leading: list[int] = []
    while len(leading) < len(ids) and ids[len(leading)] in special:
        leading.append(ids[len(leading)])
    return tuple(leading)


def _without_prefix(backend: Tokenizer, tokenizer: Any) -> Tokenizer:
    """Return a copy of a tokenizer that adds no prefix space and reads no special tokens from texts."""
    spec = json.loads(backend.to_str())
    order_merges_by_score(spec, tokenizer)
    spec["truncation"] = spec["padding"] = spec["post_processor"] = None
    spec["normalizer"] = _drop_prefix(spec["normalizer"])
    spec["pre_tokenizer"] = _drop_prefix(spec["pre_tokenizer"])
    bare = Tokenizer.from_str(json.dumps(spec))
    bare.encode_special_tokens = True
    return bare


def _drop_prefix(part: Any) -> Any:
    """Return a normalizer's or pre-tokenizer's specification without its prefix space; None where nothing is left."""
    if part is None or part["type"] == "Prepend":
        return None
    part = copy.deepcopy(part)
    if part["type"] == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        part[key] = [kept for kept in map(_drop_prefix, part[key]) if kept is not None]
        return part
    if part["type"] == "Metaspace":
        part["prepend_scheme"] = "never"
        part.pop("add_prefix_space", None)
    elif part["type"] == "ByteLevel":
        part["add_prefix_space"] = False
    return part
