import itertools
import random
from typing import Any

import pytest

from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.sample import Turn
from croc_cli.errors import UsageError
from croc_cli.names import IGNORE_INDEX
from tests.data.tiny_tokenizers import CHAT_TEMPLATES, CHATML, END_TOKENS, byte_level_tokenizer, metaspace_tokenizer

WORDS = ["What", "colour", "is", "the", "circle", "?", "The", "red", "star", "and", "two", "green", "squares"]


def make(tokenizer: Any) -> ConversationEncoder:
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    return ConversationEncoder(
        tokenizer, template="chat_template", image_token_id=image_token_id, num_visual_tokens=1, max_length=9999
    )


def plain_turns(generator: random.Random) -> list[Turn]:
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(1, 6))) for _ in range(2 * generator.randint(1, 4))]
    return [Turn("gpt" if position % 2 else "human", text) for position, text in enumerate(texts)]


def as_messages(turns: list[Turn]) -> list[dict[str, str]]:
    return [{"role": "user" if turn.role == "human" else "assistant", "content": turn.text} for turn in turns]


@pytest.mark.parametrize("kind", [byte_level_tokenizer, metaspace_tokenizer])
@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_tokens_are_those_of_the_stock_chat_template(name: str, kind: Any) -> None:
    tokenizer = kind(CHAT_TEMPLATES[name])
    encoder = make(tokenizer)
    generator = random.Random(1)
    for _ in range(20):
        turns = plain_turns(generator)
        stock = tokenizer.apply_chat_template(as_messages(turns), tokenize=True, return_dict=False)
        assert encoder.encode(turns, num_images=0).input_ids == stock
        prompt = tokenizer.apply_chat_template(
            as_messages(turns[:-1]), tokenize=True, add_generation_prompt=True, return_dict=False
        )
        assert encoder.encode_prompt(turns[:-1]) == prompt


@pytest.mark.parametrize("kind", [byte_level_tokenizer, metaspace_tokenizer])
@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_only_answers_and_their_end_token_are_trained(name: str, kind: Any) -> None:
    tokenizer = kind(CHAT_TEMPLATES[name])
    turns = [
        Turn("human", "the star ?"),
        Turn("gpt", "red circle"),
        Turn("human", "<image>"),
        Turn("gpt", "two squares"),
    ]
    labels = make(tokenizer).encode(turns, num_images=0).labels
    text = tokenizer.decode([label for label in labels if label != IGNORE_INDEX])
    end = END_TOKENS[name]
    assert text.replace(" ", "") == f"redcircle{end}twosquares{end}"
    assert len([1 for a, b in itertools.pairwise(labels) if a == IGNORE_INDEX and b != IGNORE_INDEX]) == 2


def test_an_image_takes_its_place_in_the_message() -> None:
    tokenizer = byte_level_tokenizer(CHATML)
    encoded = make(tokenizer).encode([Turn("human", "what ? <image>"), Turn("gpt", "red")], num_images=1)
    text = tokenizer.decode(encoded.input_ids)
    assert "<|im_start|>user\n<image>\nwhat ?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n" in text


def test_a_template_that_trims_messages_trims_them_here_too() -> None:
    tokenizer = byte_level_tokenizer(CHAT_TEMPLATES["gemma"])
    turns = [Turn("human", "  the star ?\n"), Turn("gpt", "\n red ")]
    stock = tokenizer.apply_chat_template(as_messages(turns), tokenize=True, return_dict=False)
    assert make(tokenizer).encode(turns, num_images=0).input_ids == stock


def test_a_template_for_lists_of_parts_works_too() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = byte_level_tokenizer(template)
    encoded = make(tokenizer).encode([Turn("human", "star ?"), Turn("gpt", "red")], num_images=0)
    expected = "<|im_start|>user\nstar ?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
    assert tokenizer.decode(encoded.input_ids) == expected


def test_a_generation_prompt_that_training_never_shows_is_left_out() -> None:
    template = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
    tokenizer = byte_level_tokenizer(template)
    turns = [Turn("human", "star ?"), Turn("gpt", "red")]
    encoder = make(tokenizer)
    prompt = encoder.encode_prompt(turns[:1])
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    assert encoder.encode(turns, num_images=0).input_ids[: len(prompt)] == prompt


def test_a_header_of_the_next_turn_is_not_taken_for_an_end() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = byte_level_tokenizer(template)
    turns = [Turn("human", "a"), Turn("gpt", "red"), Turn("human", "b"), Turn("gpt", "two")]
    labels = make(tokenizer).encode(turns, num_images=0).labels
    assert tokenizer.decode([label for label in labels if label != IGNORE_INDEX]) == "redtwo"


def test_a_tokenizer_without_a_usable_chat_template_is_refused() -> None:
    with pytest.raises(UsageError, match="has no chat template"):
        make(byte_level_tokenizer(None))
    with pytest.raises(UsageError, match="does not show each message once in a conversation of 2 turns"):
        make(byte_level_tokenizer("{{ messages[0]['content'] }}"))
