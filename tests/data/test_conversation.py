import json
import random
from typing import Any

import pytest

from croc_cli.data.conversation import ConversationEncoder, SampleError, answer_end_ids
from croc_cli.data.sample import Turn
from croc_cli.names import IGNORE_INDEX
from tests.data.tiny_tokenizers import (
    CHAT_TEMPLATES,
    CHATML,
    GOLDEN,
    byte_level_tokenizer,
    golden_tokenizer,
    metaspace_tokenizer,
    random_turns,
)

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def make(tokenizer: Any, template: Any = "vicuna_v1", *, n: int = 3, max_length: int = 10_000) -> ConversationEncoder:
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    if image_token_id in (None, tokenizer.unk_token_id):
        image_token_id = -200
    return ConversationEncoder(
        tokenizer, template=template, image_token_id=image_token_id, num_visual_tokens=n, max_length=max_length
    )


def trained(labels: list[int]) -> list[int]:
    return [label for label in labels if label != IGNORE_INDEX]


@pytest.fixture(scope="module")
def llama() -> Any:
    return golden_tokenizer()


@pytest.fixture(scope="module")
def byte_level() -> Any:
    return byte_level_tokenizer()


def test_every_golden_case_of_llava_comes_out_token_by_token(llama: Any) -> None:
    cases = json.loads((GOLDEN / "cases.json").read_text())["cases"]
    assert len(cases) == 29
    encoders = {"v1": make(llama, "vicuna_v1", n=1), "plain": make(llama, "plain", n=1)}
    for case in cases:
        turns = [Turn(turn["from"], turn["value"]) for turn in case["conversations"]]
        encoded = encoders[case["template"]].encode(turns, num_images=int(case["has_image"]))
        assert (encoded.input_ids, encoded.labels) == (case["input_ids"], case["labels"])


def test_runs_of_spaces_are_cut_as_sentencepiece_cuts_them(llama: Any) -> None:
    turns = [Turn("human", "trailing space "), Turn("gpt", "a    b")]
    encoded = make(llama).encode(turns, num_images=0)
    tokens = llama.convert_ids_to_tokens(encoded.input_ids)
    assert tokens[tokens.index("▁trailing") :] == [
        *("▁trailing", "▁space", "▁", "▁ASS", "IST", "ANT", ":"),
        *("▁a", "▁▁▁", "▁b", "</s>"),
    ]


def test_vicuna_trains_answers_and_their_end_and_nothing_else(byte_level: Any) -> None:
    turns = [Turn("human", "<image>\ncolour?"), Turn("gpt", "red"), Turn("human", "sure?"), Turn("gpt", "Yes.")]
    encoded = make(byte_level).encode(turns, num_images=1)
    text = byte_level.decode(encoded.input_ids)
    assert text == (
        f"<s>{SYSTEM} USER: <image><image><image>\ncolour? ASSISTANT: red</s>USER: sure? ASSISTANT: Yes.</s>"
    )
    assert byte_level.decode(trained(encoded.labels)) == " red</s> Yes.</s>"
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(encoded.input_ids, encoded.labels, strict=True))


def test_plain_trains_the_caption_and_a_newline(byte_level: Any) -> None:
    encoded = make(byte_level, "plain").encode(
        [Turn("human", "Describe it.\n<image>"), Turn("gpt", "The circle is red")], num_images=1
    )
    assert byte_level.decode(encoded.input_ids) == "<s><image><image><image>The circle is red\n"
    assert byte_level.decode(trained(encoded.labels)) == "The circle is red\n"


def test_plain_refuses_a_second_question(byte_level: Any) -> None:
    turns = [Turn("human", "<image>"), Turn("gpt", "a"), Turn("human", "b"), Turn("gpt", "c")]
    with pytest.raises(SampleError, match="one human and one gpt turn, not 4"):
        make(byte_level, "plain").encode(turns, num_images=1)


@pytest.mark.parametrize("template", ["plain", "vicuna_v1", "chat_template"])
@pytest.mark.parametrize(
    "kind", ["byte_level", "byte_level_without_bos", "metaspace_first", "metaspace_always", "llama"]
)
def test_a_prompt_is_a_prefix_of_its_training_sequence(template: Any, kind: str, llama: Any) -> None:
    if kind == "llama" and template == "chat_template":
        pytest.skip("has no chat template")
    tokenizer = {
        "byte_level": lambda: byte_level_tokenizer(CHATML),
        "byte_level_without_bos": lambda: byte_level_tokenizer(CHATML, bos=False),
        "metaspace_first": lambda: metaspace_tokenizer(CHATML),
        "metaspace_always": lambda: metaspace_tokenizer(CHATML, prepend_scheme="always"),
        "llama": lambda: llama,
    }[kind]()
    encoder = make(tokenizer, template)
    generator = random.Random(0)
    for _ in range(40):
        num_images = generator.randint(0, 3)
        turns = random_turns(generator, num_images=num_images, num_pairs=1 if template == "plain" else None)
        encoded = encoder.encode(turns, num_images=num_images)
        for end in range(1, len(turns), 2):
            prompt = encoder.encode_prompt(turns[:end], num_images=num_images)
            assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.labels[len(prompt)] == encoded.input_ids[len(prompt)]
        assert set(encoded.labels[: len(prompt)][-1:]) <= {IGNORE_INDEX}


def test_the_vicuna_prompt_ends_with_the_colon(byte_level: Any) -> None:
    prompt = make(byte_level).encode_prompt([Turn("human", "<image>\ncolour?")])
    assert byte_level.decode(prompt) == f"<s>{SYSTEM} USER: <image><image><image>\ncolour? ASSISTANT:"


@pytest.mark.parametrize("template", ["plain", "vicuna_v1", "chat_template"])
@pytest.mark.parametrize("text", ["<s>", "</s>", "<image>", "a<|im_end|>b</s></s>"])
def test_control_tokens_that_a_user_spells_stay_text(template: Any, text: str) -> None:
    for tokenizer in (byte_level_tokenizer(CHATML), metaspace_tokenizer(CHATML)):
        turns = [Turn("human", text), Turn("gpt", f"it is {text} indeed")]
        harmless = [Turn("human", "x"), Turn("gpt", "x")]
        encoder = make(tokenizer, template)
        encoded = encoder.encode(turns, num_images=0)
        controls = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        controls -= {tokenizer.unk_token_id}
        found = [token for token in encoded.input_ids if token in controls]
        assert found == [t for t in encoder.encode(harmless, num_images=0).input_ids if t in controls]
        assert f"it is {text} indeed" in tokenizer.decode(trained(encoded.labels))


def test_llama_reads_no_control_token_from_a_text(llama: Any) -> None:
    encoded = make(llama).encode([Turn("human", "<s> </s>"), Turn("gpt", "</s><s>")], num_images=0)
    assert encoded.input_ids.count(1) == 1
    assert encoded.input_ids.count(2) == 1
    assert encoded.input_ids[-1] == 2


def test_the_one_image_moves_to_the_front_of_its_turn_and_several_stay(byte_level: Any) -> None:
    encoder = make(byte_level, n=1)
    moved = encoder.encode([Turn("human", " what is\n<image> this "), Turn("gpt", "a")], num_images=1)
    assert "USER: <image>\nwhat is\n this ASSISTANT:" in byte_level.decode(moved.input_ids)
    stay = encoder.encode(
        [
            Turn("human", "left <image> right <image>"),
            Turn("gpt", "a"),
            Turn("human", "and <image>?"),
            Turn("gpt", "b"),
        ],
        num_images=3,
    )
    text = byte_level.decode(stay.input_ids)
    assert "USER: left <image> right <image> ASSISTANT: a</s>USER: and <image>? ASSISTANT: b</s>" in text
    assert stay.num_images == 3


def test_placeholders_and_images_must_agree(byte_level: Any) -> None:
    with pytest.raises(SampleError, match=r"0 <image> in the human turns, but 1 image"):
        make(byte_level).encode([Turn("human", "a"), Turn("gpt", "<image>")], num_images=1)
    with pytest.raises(SampleError, match=r"1 <image> in the human turns, but 2 image"):
        make(byte_level).encode([Turn("human", "<image>"), Turn("gpt", "b")], num_images=2)


def test_turns_must_alternate_from_a_human_one(byte_level: Any) -> None:
    with pytest.raises(SampleError, match="turn 0 is from 'gpt', expected 'human'"):
        make(byte_level).encode([Turn("gpt", "a")], num_images=0)
    with pytest.raises(SampleError, match="must end with a human turn"):
        make(byte_level).encode_prompt([Turn("human", "a"), Turn("gpt", "b")])


def test_an_empty_answer_trains_nothing_but_leaves_the_others_trained(byte_level: Any) -> None:
    turns = [Turn("human", "a?"), Turn("gpt", " "), Turn("human", "b?"), Turn("gpt", "Yes.")]
    encoded = make(byte_level).encode(turns, num_images=0)
    assert byte_level.decode(trained(encoded.labels)) == " Yes.</s>"


def test_a_sample_too_long_loses_its_end(byte_level: Any) -> None:
    turns = [Turn("human", "<image>\na?"), Turn("gpt", "The circle is red. " * 20)]
    whole = make(byte_level).encode(turns, num_images=1)
    cut = make(byte_level, max_length=len(whole.input_ids) - 5).encode(turns, num_images=1)
    assert cut.truncated
    assert not whole.truncated
    assert cut.input_ids == whole.input_ids[:-5]
    assert cut.labels == whole.labels[:-5]
    fits = make(byte_level, max_length=len(whole.input_ids)).encode(turns, num_images=1)
    assert not fits.truncated


def test_an_image_that_the_cut_would_divide_is_left_out_whole(byte_level: Any) -> None:
    turns = [Turn("human", "<image><image>a"), Turn("gpt", "b")]
    encoder = make(byte_level, "plain", n=4)
    assert encoder.encode(turns, num_images=2).num_images == 2
    for max_length, kept in [(1, 0), (4, 0), (5, 1), (6, 1), (8, 1), (9, 2), (10, 2)]:
        cut = make(byte_level, "plain", n=4, max_length=max_length).encode(turns, num_images=2)
        assert cut.num_images == kept
        assert cut.truncated
        assert len(cut.input_ids) == (1 + 4 * kept if max_length < 10 else 10)


@pytest.mark.parametrize("template", CHAT_TEMPLATES)
def test_the_end_token_is_the_last_that_an_answer_trains(template: str) -> None:
    tokenizer = byte_level_tokenizer(CHAT_TEMPLATES[template])
    encoder = make(tokenizer, "chat_template")
    for turns in ([Turn("human", "a"), Turn("gpt", "b")], [Turn("human", "a"), Turn("gpt", "b")] * 2):
        labels = encoder.encode(turns, num_images=0).labels
        assert encoder.end_ids == (next(label for label in reversed(labels) if label != IGNORE_INDEX),)
    assert answer_end_ids(tokenizer, template=None, chat_template=CHAT_TEMPLATES[template]) == encoder.end_ids
    assert answer_end_ids(tokenizer, template="vicuna_v1", chat_template=None) == (tokenizer.eos_token_id,)


def test_a_template_that_ends_answers_by_text_has_no_end_token() -> None:
    template = CHAT_TEMPLATES["chatml"].replace("<|im_end|>", "###")
    assert make(byte_level_tokenizer(template), "chat_template").end_ids == ()
    broken = "{% for m in messages %}{{ m['nothing'].x }}{% endfor %}"
    assert answer_end_ids(byte_level_tokenizer(), template=None, chat_template=broken) == ()
