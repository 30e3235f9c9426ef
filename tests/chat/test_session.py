import dataclasses
import threading

import pytest
import torch

from croc_cli.chat.session import Answer, ChatSession, count_visual_tokens, prompt_builder
from croc_cli.chat.stream import AnswerStreamer
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.checkpoint.metadata import CheckpointMetadata
from croc_cli.data.sample import Turn
from croc_cli.errors import UsageError
from tests.tiny import NUM_VISUAL_TOKENS, make_tiny_llava

STOCK_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


class Watched(ChatSession):
    """Keeps what each question was made into."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.prompts, self.shown = [], []

    def _generate(self, input_ids, images, streamer, stop):
        self.prompts.append(self.model.processor.tokenizer.decode(input_ids))
        self.shown.append([image.name for image in images])
        super()._generate(input_ids, images, streamer, stop)


def test_the_answer_is_what_stock_generate_gives(vicuna, red):
    session = ChatSession(vicuna, max_tokens=12)
    session.show(red)
    pieces = []
    answer = session.ask("What is this?", on_text=pieces.append)
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    processor = vicuna.processor
    # LLaVA tokenises the text after an image on its own, so the prompt is joined from three pieces here, too.
    head, tail = f"{system} USER: ", "\nWhat is this? ASSISTANT:"
    ids = [
        *processor.tokenizer(head).input_ids,
        *[vicuna.llava.config.image_token_id] * NUM_VISUAL_TOKENS,
        *processor.tokenizer(tail, add_special_tokens=False).input_ids,
    ]
    pixels = processor.image_processor(images=red.picture, return_tensors="pt")["pixel_values"]
    out = vicuna.llava.generate(input_ids=torch.tensor([ids]), pixel_values=pixels, max_new_tokens=12, do_sample=False)
    expected = processor.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    kept = "".join(c for c in expected if c in "\n\t" or not (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0)).strip()
    assert answer.text == kept == "".join(pieces)
    assert answer.text
    assert not answer.stopped


def test_another_picture_gives_another_answer_and_the_same_one_the_same(vicuna, red, noise):
    answers = []
    for image in (red, red, noise):
        session = ChatSession(vicuna, max_tokens=12)
        session.show(image)
        answers.append(session.ask("What is this?").text)
    assert answers[0] == answers[1] != answers[2]


def test_the_conversation_is_remembered_with_the_picture_where_it_was_shown(vicuna, red, noise):
    session = Watched(vicuna, max_tokens=4)
    session.show(red)
    first = session.ask("What is this?").text
    session.ask("And its colour?")
    session.show(noise)
    session.ask("Compare.")
    visual = "<image>" * NUM_VISUAL_TOKENS
    assert f"USER: {visual}\nWhat is this? ASSISTANT: {first}</s>USER: And its colour? ASSISTANT:" in session.prompts[1]
    assert session.prompts[1].count("<image>") == NUM_VISUAL_TOKENS
    assert f"USER: {visual}\nCompare. ASSISTANT:" in session.prompts[2]
    assert session.prompts[2].count("<image>") == 2 * NUM_VISUAL_TOKENS
    assert session.shown == [[red.name], [red.name], [red.name, noise.name]]
    assert [turn.role for turn in session.turns] == ["human", "gpt"] * 3
    session.restart()
    session.ask("Hello?")
    assert "<image>" not in session.prompts[3]
    assert "What is this?" not in session.prompts[3]


def test_a_question_without_a_picture_is_answered(vicuna):
    assert ChatSession(vicuna, max_tokens=6).ask("Hello?").text


def test_a_placeholder_may_be_written_for_a_picture_that_is_shown_and_for_no_other(vicuna, red):
    session = Watched(vicuna, max_tokens=2)
    with pytest.raises(UsageError, match="<image> stands for a picture: 1 written, 0 shown"):
        session.ask("<image>\nWhat?")
    session.show(red)
    session.ask("<image>\nWhat?")
    assert session.prompts[0].count("<image>") == NUM_VISUAL_TOKENS


def test_a_stopped_answer_ends_at_once_and_what_was_said_is_kept(vicuna, red):
    session = ChatSession(vicuna, max_tokens=200)
    session.show(red)
    stop = threading.Event()
    pieces = []

    def on_text(piece):
        pieces.append(piece)
        if len(pieces) == 3:
            stop.set()

    answer = session.ask("What is this?", on_text=on_text, stop=stop)
    assert answer.stopped
    assert 3 <= len(pieces) <= 4
    assert session.turns[-1].text == answer.text == "".join(pieces)
    session.ask("Go on")


def test_a_question_stopped_before_its_answer_began_is_forgotten_and_the_picture_stays(vicuna, red, monkeypatch):
    session = ChatSession(vicuna, max_tokens=200)
    session.show(red)
    stop = threading.Event()
    stop.set()
    monkeypatch.setattr(AnswerStreamer, "text", "")
    answer = session.ask("What is this?", stop=stop)
    assert answer == Answer("", stopped=True)
    assert session.turns == session.images == []
    assert session.pending == [red]


def test_a_conversation_too_long_for_the_model_is_refused_and_left_as_it_was(vicuna, red):
    session = ChatSession(vicuna, max_tokens=3)
    session.show(red)
    with pytest.raises(UsageError, match=r"the conversation has \d+ tokens, the model takes 512") as caught:
        session.ask("What? " * 600)
    assert caught.value.hint == "/new starts over"
    assert session.turns == []
    assert session.pending == [red]


def test_sampling_is_repeatable_by_its_seed_and_differs_from_greedy(vicuna):
    def answer(**arguments):
        return ChatSession(vicuna, max_tokens=12, **arguments).ask("Hello?").text

    greedy = answer()
    assert answer(temperature=1.5, seed=1) == answer(temperature=1.5, seed=1)
    assert len({greedy, answer(temperature=1.5, seed=1), answer(temperature=1.5, seed=2)}) == 3
    assert answer() == greedy


def test_the_models_own_generation_settings_do_not_leak_in(vicuna):
    before = ChatSession(vicuna, max_tokens=12).ask("Hello?").text
    vicuna.llava.generation_config.repetition_penalty = 5.0
    vicuna.llava.generation_config.num_beams = 3
    assert ChatSession(vicuna, max_tokens=12).ask("Hello?").text == before


def test_the_answer_stops_at_the_end_token_of_the_tokenizer_or_the_model(vicuna):
    prompt = prompt_builder(vicuna)([Turn("human", "Hello?")], num_images=0)
    session = ChatSession(vicuna, max_tokens=30)
    whole = session.ask("Hello?").text
    said = vicuna.llava.generate(input_ids=torch.tensor([prompt]), max_new_tokens=30)[0, len(prompt) :].tolist()
    own, end = vicuna.llava.generation_config, vicuna.processor.tokenizer.eos_token_id
    assert own.eos_token_id == [end]
    try:
        own.eos_token_id = said[6]
        shorter = ChatSession(vicuna, max_tokens=30)
        assert vicuna.llava.generation_config.eos_token_id == sorted([end, said[6]])
        text = shorter.ask("Hello?").text
    finally:
        vicuna.llava.generation_config.eos_token_id = end
    assert len(text) < len(whole)


def test_a_stock_model_is_spoken_to_as_its_processor_says(tmp_path, red):
    model = load_for_inference(make_tiny_llava(tmp_path / "stock", chat_template=STOCK_TEMPLATE))
    turns = [Turn("human", "<image>\nWhat?"), Turn("gpt", "Red."), Turn("human", "Sure?")]
    expected = model.processor(
        images=red.picture, text="USER: <image>\nWhat? ASSISTANT: Red. USER: Sure? ASSISTANT:", return_tensors="pt"
    )["input_ids"]
    assert prompt_builder(model)(turns, num_images=1) == expected[0].tolist()
    session = ChatSession(model, max_tokens=4)
    session.show(red)
    assert session.ask("What?").text


def test_a_stock_model_without_a_template_is_spoken_to_as_vicuna(vicuna):
    stock = dataclasses.replace(vicuna, metadata=CheckpointMetadata())
    turns = [Turn("human", "Hello?")]
    assert prompt_builder(stock)(turns, num_images=0) == prompt_builder(vicuna)(turns, num_images=0)


def test_a_caption_model_takes_one_picture_and_no_conversation(vicuna, red):
    session = ChatSession(dataclasses.replace(vicuna, metadata=CheckpointMetadata(template="plain")), max_tokens=2)
    session.show(red)
    session.ask("")
    with pytest.raises(UsageError, match="this model cannot take that: template plain takes one human turn"):
        session.ask("And now?")


def test_visual_tokens_are_counted_as_the_stock_processor_counts_them(vicuna):
    assert count_visual_tokens(vicuna.processor) == NUM_VISUAL_TOKENS == 16
