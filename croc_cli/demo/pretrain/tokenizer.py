"""Makes the nano LLM's tokenizer: byte-level BPE in which every word that a scene is told with is one token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from croc_cli.demo.language import BRIEF_FORMS, DETAIL_REQUESTS, brief_caption, detailed_caption, scene_in_words
from croc_cli.demo.questions import QUESTION_TYPES, ask
from croc_cli.demo.scenes import sample_scene, scene_generator
from croc_cli.names import IMAGE_TOKEN

SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""The opening of LLaVA's vicuna_v1 template, which the nano LLM is pretrained in."""

_SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", IMAGE_TOKEN)
_NUM_MERGES = 512  # enough for every word of the corpus; the rest of the vocabulary is the 256 bytes
_NUM_SCENES = 400


def train_tokenizer() -> Any:
    """Train the tokenizer on the scenes' language.

    Returns:
        A fast tokenizer that begins every text with `<s>`, as a Llama's does, and encodes any text without `<unk>`.

    Raises:
        RuntimeError: A word of the corpus is more than one token.
    """
    words = sorted(set(_words()))
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(_SPECIAL_TOKENS) + 256 + _NUM_MERGES,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Each word counts once: a rare word then gets its merges as surely as a frequent one.
    tokenizer.train_from_iterator(words, trainer)
    if split := [word for word in words if len(tokenizer.encode(word).ids) != 1]:
        raise RuntimeError(f"words of more than one token: {split}")
    bos = _SPECIAL_TOKENS.index("<s>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bos)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=[IMAGE_TOKEN],
        model_max_length=1024,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _words() -> Iterator[str]:
    """Yield the words of the corpus as the pre-tokenizer will cut them, with the space before them."""
    for text in _texts():
        yield from re.findall(r" ?[A-Za-z]+| ?[^\sA-Za-z]", text)


def _texts() -> Iterator[str]:
    yield from (SYSTEM_PROMPT, " USER:", "USER:", " ASSISTANT:", *DETAIL_REQUESTS)
    yield from (f" {request}" for request in DETAIL_REQUESTS)
    for index in range(_NUM_SCENES):
        scene = sample_scene(0, "train", index)
        rng = scene_generator(0, "train", index, purpose=1)
        yield detailed_caption(scene)
        yield from (brief_caption(scene, form) for form in BRIEF_FORMS)
        for question_type in QUESTION_TYPES:
            question = ask(scene, question_type, rng)
            yield from (question.text, f" {question.text}", f" {question.answer}", scene_in_words(scene, ""))
            yield f" {scene_in_words(scene, '')}"
