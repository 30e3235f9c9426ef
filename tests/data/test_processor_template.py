from functools import cache
from typing import Any

import pytest

from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.processor_template import chat_template_for, with_pictures
from croc_cli.data.sample import Turn
from tests.data.tiny_tokenizers import CHAT_TEMPLATES, byte_level_tokenizer
from tests.tiny import make_tiny_processor


def turns_as_messages(turns: list[Turn]) -> list[dict[str, object]]:
    """Return what a user of stock transformers would write for the same conversation."""
    messages: list[dict[str, object]] = []
    for turn in turns:
        parts: list[dict[str, str]] = [{"type": "image"}] * turn.text.count("<image>")
        parts.append({"type": "text", "text": turn.text.replace("<image>\n", "")})
        messages.append({"role": "user" if turn.role == "human" else "assistant", "content": parts})
    return messages


CONVERSATIONS = {
    "one picture": ["<image>\nWhat colour is the circle?"],
    "no picture": ["How many are there? "],
    "a picture after the question": ["What is it?\n<image>"],
    "a picture in the middle": ["Hello ", "Hi", "Look <image> here\n"],
    "a picture alone": ["<image>"],
    "a picture of the first turn": ["<image>\nWhat is it? ", "A square. ", " Are you sure?\n"],
    "interleaved": ["First <image> then <image> ok?"],
    "pictures first": ["<image>\n<image>\nCompare"],
    "lines": ["<image>\nFirst\n<image>\nSecond <image>"],
    "pictures alone": ["<image>\n<image>"],
    "a picture each turn": ["<image>\nThis?", "A cat.", "And <image>\nthis?"],
    "line feeds": ["<image>\n\n\nWhat?", "1. a\n2. b\n", "more"],
}


def as_written(text: str) -> list[dict[str, str]]:
    """Return a turn's texts and pictures in the order in which they stand."""
    parts: list[dict[str, str]] = []
    for position, piece in enumerate(text.split("<image>")):
        parts += [{"type": "image"}] if position else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


@cache
def saved_and_trained(template: str) -> tuple[Any, ConversationEncoder]:
    """Return the processor that is saved and the encoder that trains, for one of our templates or an LLM's own."""
    tokenizer = byte_level_tokenizer(
        with_pictures(CHAT_TEMPLATES.get(template)), bos=template not in ("chatml", "qwen_1_5")
    )
    ours: Any = "chat_template" if template in CHAT_TEMPLATES else template
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    encoder = ConversationEncoder(
        tokenizer, template=ours, image_token_id=image_token_id, num_visual_tokens=1, max_length=512
    )
    return make_tiny_processor(chat_template=chat_template_for(ours), tokenizer=tokenizer), encoder


@pytest.mark.parametrize("form", [str, as_written])
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template", ["vicuna_v1", "plain", "qwen_1_5", "chatml", "llama3", "gemma", "vicuna"])
def test_the_saved_processor_puts_pictures_where_training_had_them(template: str, name: str, form: Any) -> None:
    texts = CONVERSATIONS[name]
    if template == "plain" and len(texts) > 1:
        texts = texts[:1]
    processor, encoder = saved_and_trained(template)
    tokenizer = processor.tokenizer
    turns = [Turn("gpt" if position % 2 else "human", text) for position, text in enumerate(texts)]
    messages = [{"role": "assistant" if turn.role == "gpt" else "user", "content": form(turn.text)} for turn in turns]
    text = (processor if processor.chat_template else tokenizer).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    bos = text.startswith("<s>")
    assert tokenizer(text, add_special_tokens=not bos).input_ids == encoder.encode_prompt(turns)


@pytest.mark.parametrize("system", ["Sois bref, d'accord ?", 'Say "yes" \\ {{ no }}\n🙂', ""])
def test_a_system_prompt_of_ones_own_is_saved_as_it_is(system: str) -> None:
    tokenizer = byte_level_tokenizer(bos=False)
    processor = make_tiny_processor(chat_template=chat_template_for("qwen_1_5", system), tokenizer=tokenizer)
    text = processor.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    messages = [{"role": "system", "content": "Other."}, {"role": "user", "content": "Hi"}]
    assert processor.apply_chat_template(messages, tokenize=False).startswith("<|im_start|>system\nOther.<|im_end|>\n")


def test_the_plain_template_is_the_picture_and_then_the_caption() -> None:
    processor = make_tiny_processor(chat_template=chat_template_for("plain"))
    turns = [Turn("human", "<image>\nDescribe it."), Turn("gpt", "A red circle.")]
    assert processor.apply_chat_template(turns_as_messages(turns), tokenize=False) == "<image>A red circle.\n"


def test_a_tokenizers_own_template_is_left_alone() -> None:
    assert chat_template_for("chat_template") is None


def test_an_llms_own_template_also_takes_lists_of_pictures_and_texts() -> None:
    own = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    processor = make_tiny_processor(chat_template=with_pictures(own))
    turns = [Turn("human", "<image>\nWhat is it?"), Turn("gpt", "A square.")]
    lists, strings = turns_as_messages(turns), [{"role": "user", "content": "Hello  there\n"}]
    assert processor.apply_chat_template(lists, tokenize=False) == "<user><image>\nWhat is it?<assistant>A square."
    assert processor.apply_chat_template(strings, tokenize=False) == "<user>Hello  there\n"
    assert with_pictures(with_pictures(own)) == with_pictures(own)
    assert with_pictures(None) is None
