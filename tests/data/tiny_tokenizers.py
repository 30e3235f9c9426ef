"""Tiny tokenizers of the shapes that LLMs come with, and random conversations for them."""

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from croc_cli.data.sample import Turn

GOLDEN = Path(__file__).parent / "golden"

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + (m['content'] | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
VICUNA = (
    "{{ bos_token }}A chat.{% for m in messages %}{% if m['role'] == 'user' %} USER: {{ m['content'] }}"
    "{% else %} ASSISTANT: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + "
    "m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CHAT_TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "vicuna": VICUNA, "gemma": GEMMA}
END_TOKENS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "vicuna": "</s>", "gemma": "<end_of_turn>"}

_SPECIAL = [
    *("<unk>", "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<start_of_turn>", "<end_of_turn>"),
]
_CORPUS = [
    "A chat between a curious user and an assistant. What colour is the circle? The circle is red. Yes. No.",
    "USER: how many squares are left of the blue star? ASSISTANT: there are two squares and one green triangle.",
]


def byte_level_tokenizer(chat_template: str | None = None, *, bos: bool = True) -> Any:
    """Like GPT-2's, Llama-3's and the nano LLM's: spaces belong to the word after them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _wrap(tokenizer, chat_template, bos=bos)


def metaspace_tokenizer(chat_template: str | None = None, *, prepend_scheme: str = "first") -> Any:
    """Like Llama-2's: a space is put before a text, and bytes stand for what is not in the vocabulary."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=640, special_tokens=[*_SPECIAL, *pieces], show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    specification = json.loads(tokenizer.to_str())
    specification["added_tokens"] = []  # the pieces for bytes are no control tokens
    return _wrap(Tokenizer.from_str(json.dumps(specification)), chat_template, bos=True)


def golden_tokenizer() -> Any:
    """The Llama-like 32k SentencePiece tokenizer that the golden cases were made with."""
    return LlamaTokenizer.from_pretrained(GOLDEN)


def random_turns(generator: random.Random, *, num_images: int, num_pairs: int | None = None) -> tuple[Turn, ...]:
    """Return a conversation with words, spaces, newlines and things that look like control tokens."""
    words = [
        *" ".join(_CORPUS).split(),
        "",
        "\n",
        "  x",
        "é",
        "你好",
        "</s>",
        "<s>",
        "<|im_end|>",
        "1.5",
        "USER:",
        "ASSISTANT",
    ]
    turns: list[Turn] = []
    for pair in range(num_pairs or generator.randint(1, 3)):
        question = " ".join(generator.choices(words, k=generator.randint(1, 6)))
        answer = " ".join(generator.choices(words, k=generator.randint(1, 6))) + "."
        if pair == 0 and num_images:
            question = generator.choice([f"<image>\n{question}", f"{question} <image>"])
            question += " and <image>" * (num_images - 1)
        turns += [Turn("human", question), Turn("gpt", answer)]
    return tuple(turns)


def _wrap(tokenizer: Tokenizer, chat_template: str | None, *, bos: bool) -> Any:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    wrapped.chat_template = chat_template
    return wrapped
