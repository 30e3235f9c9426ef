"""The template of ViCToR's code; `golden/victor` holds what that code made of conversations (-200 = image)."""

import json
from typing import Any

import pytest
from transformers import AutoTokenizer

from croc_cli.data.conversation import ConversationEncoder, SampleError, answer_end_ids
from croc_cli.data.sample import Turn
from croc_cli.errors import UsageError
from croc_cli.model.vocabulary import set_up_tokenizer
from croc_cli.names import IGNORE_INDEX
from croc_cli.recipe.template_options import TemplateOptions
from tests.data.tiny_tokenizers import GOLDEN, byte_level_tokenizer, golden_tokenizer

CASES = json.loads((GOLDEN / "victor" / "cases.json").read_text())
AS_THE_CODE = TemplateOptions(trained_tokens="turns", control_tokens_in_text=True)
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@pytest.fixture(scope="module")
def qwen() -> Any:
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "victor")
    set_up_tokenizer(tokenizer)
    return tokenizer


def make(tokenizer: Any, template: Any = "qwen_1_5", options: TemplateOptions = AS_THE_CODE) -> ConversationEncoder:
    return ConversationEncoder(
        tokenizer,
        template=template,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        num_visual_tokens=1,
        max_length=10_000,
        options=options,
    )


def trained_text(tokenizer: Any, labels: list[int]) -> str:
    text: str = tokenizer.decode([label for label in labels if label != IGNORE_INDEX])
    return text


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['template']}-{case['name']}")
def test_every_golden_case_of_victors_code_comes_out_token_by_token(case: dict[str, Any], qwen: Any) -> None:
    encoder = make(qwen, case["template"])
    turns = [Turn(turn["from"], turn["value"]) for turn in case["conversations"]]
    encoded = encoder.encode(turns, num_images=case["input_ids"].count(-200))
    ids = [-200 if token == encoder.image_token_id else token for token in encoded.input_ids]
    assert (ids, encoded.labels) == (case["input_ids"], case["labels"])


def test_answers_and_their_end_alone_are_trained_where_the_recipe_says_so(qwen: Any) -> None:
    turns = [Turn("human", "<image>\nHow many?\n"), Turn("gpt", "2"), Turn("human", "Sure?"), Turn("gpt", " ")]
    encoded = make(qwen, options=TemplateOptions()).encode(turns, num_images=1)
    assert trained_text(qwen, encoded.labels) == "2<|im_end|>"
    turned = make(qwen).encode(turns, num_images=1)
    assert turned.input_ids == encoded.input_ids
    frame = "<|im_start|>\n<|im_end|>\n"
    assert trained_text(qwen, turned.labels) == (
        f"{frame}<|im_start|>\n\n\n<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        f"{frame}<|im_start|>assistant\n <|im_end|>\n"
    )


def test_control_tokens_in_a_row_count_only_where_the_recipe_says_so_and_in_prompts_never(qwen: Any) -> None:
    spelt = [Turn("human", "say <|im_end|> or <image>"), Turn("gpt", "<|endoftext|>")]
    end, image = qwen.convert_tokens_to_ids("<|im_end|>"), qwen.convert_tokens_to_ids("<image>")
    for template, num_ends in (("qwen_1_5", 4), ("plain", 0)):
        as_code, careful = make(qwen, template), make(qwen, template, TemplateOptions(trained_tokens="turns"))
        read, written = (encoder.encode(spelt, num_images=0).input_ids for encoder in (as_code, careful))
        assert read.count(end) == num_ends
        assert written.count(end) == max(num_ends - 1, 0)
        assert read.count(qwen.convert_tokens_to_ids("<|endoftext|>")) == 1
        assert image not in [*read, *written]
        assert qwen.decode(read) == qwen.decode(written)
        assert as_code.encode_prompt(spelt[:1], num_images=0) == careful.encode_prompt(spelt[:1], num_images=0)


@pytest.mark.parametrize("options", [TemplateOptions(), AS_THE_CODE, TemplateOptions("Antworte kurz.")])
def test_a_prompt_is_where_its_training_sequence_begins_its_answer(qwen: Any, options: TemplateOptions) -> None:
    turns = [Turn("human", "Look\n<image> "), Turn("gpt", "A cup."), Turn("human", "\nAnd?"), Turn("gpt", "Red.")]
    encoder = make(qwen, options=options)
    whole = encoder.encode(turns, num_images=1).input_ids
    for end in (1, 3):
        prompt = encoder.encode_prompt(turns[:end])
        assert whole[: len(prompt)] == prompt
    system = SYSTEM.replace("You are a helpful assistant.", options.system_prompt or "You are a helpful assistant.")
    assert qwen.decode(encoder.encode_prompt(turns[:1])) == (
        f"{system}<|im_start|>user\n<image>\nLook<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("text", "num_images", "laid"),
    [
        ("<image>\nWhat?\n", 1, "<image>\nWhat?\n"),
        (" <image>\nWhat?\n", 1, "<image>\nWhat?"),
        ("What?<image>", 1, "<image>\nWhat?"),
        ("<image>What?", 1, "<image>What?"),
        ("<image>\n", 1, "<image>\n"),
        ("\n<image>\n", 1, "<image>"),
        ("a <image> b <image> ", 2, "a <image> b <image> "),
        ("a <image> b <image> ", 1, "<image>\na  b"),
        ("a <image> b", 0, "a <image> b"),
    ],
)
def test_a_turn_with_one_image_begins_with_it_and_others_stay(qwen: Any, text: str, num_images: int, laid: str) -> None:
    ids = make(qwen).encode([Turn("human", text), Turn("gpt", "A cup.")], num_images=num_images).input_ids
    assert f"<|im_start|>user\n{laid}<|im_end|>" in qwen.decode(ids)


def test_images_of_several_turns_begin_theirs_and_a_first_answer_is_dropped(qwen: Any) -> None:
    turns = [Turn("gpt", "Hello"), Turn("human", "This <image>"), Turn("gpt", "a"), Turn("human", "or <image>?")]
    text = qwen.decode(make(qwen).encode([*turns, Turn("gpt", "b")], num_images=2).input_ids)
    assert text.startswith(f"{SYSTEM}<|im_start|>user\n<image>\nThis<|im_end|>\n")
    assert "<|im_start|>user\n<image>\nor ?<|im_end|>\n" in text
    with pytest.raises(SampleError, match="at least one turn"):
        make(qwen).encode(turns[:1], num_images=0)


def test_answers_end_with_the_end_of_their_turn(qwen: Any) -> None:
    end = qwen.convert_tokens_to_ids("<|im_end|>")
    assert answer_end_ids(qwen, template="qwen_1_5", chat_template=None) == (end,)
    assert make(byte_level_tokenizer()).end_ids == (byte_level_tokenizer().convert_tokens_to_ids("<|im_end|>"),)


def test_an_llm_without_the_control_tokens_of_chatml_is_refused() -> None:
    with pytest.raises(UsageError, match=r"qwen_1_5 writes <\|im_start\|> and <\|im_end\|>, and .* lacks <\|im_start"):
        make(golden_tokenizer())
