import pytest

from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.processor_template import chat_template_for, with_pictures
from croc_cli.data.sample import Turn
from tests.tiny import make_tiny_processor


def turns_as_messages(turns: list[Turn]) -> list[dict[str, object]]:
    """Return what a user of stock transformers would write for the same conversation."""
    messages: list[dict[str, object]] = []
    for turn in turns:
        parts: list[dict[str, str]] = [{"type": "image"}] * turn.text.count("<image>")
        parts.append({"type": "text", "text": turn.text.replace("<image>\n", "")})
        messages.append({"role": "user" if turn.role == "human" else "assistant", "content": parts})
    return messages


@pytest.mark.parametrize(
    "turns",
    [
        [Turn("human", "<image>\nWhat colour is the circle?")],
        [Turn("human", "How many are there?")],
        [Turn("human", "<image>\nWhat is it?"), Turn("gpt", "A square."), Turn("human", "Are you sure?")],
    ],
)
def test_the_saved_processor_prompts_as_the_model_was_trained(turns: list[Turn]) -> None:
    processor = make_tiny_processor(chat_template=chat_template_for("vicuna_v1"))
    encoder = ConversationEncoder(
        processor.tokenizer,
        template="vicuna_v1",
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
        num_visual_tokens=1,
        max_length=512,
    )
    text = processor.apply_chat_template(turns_as_messages(turns), add_generation_prompt=True, tokenize=False)
    assert processor.tokenizer(text)["input_ids"] == encoder.encode_prompt(turns)


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
