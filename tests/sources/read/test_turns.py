import base64
from collections.abc import Callable
from typing import Any

import pytest

from croc_cli.sources.read.picture_cells import Picture, holds_picture, read_pictures
from croc_cli.sources.read.rows import BadCell
from croc_cli.sources.read.turns import place_pictures, read_conversation, read_text
from tests.sources.data import encoded, picture

PNG = encoded(picture(1), "PNG")
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
A, B = Picture("a.png"), Picture("b.png")


def spoken(value: Any, **changes: Any) -> list[tuple[str, str]]:
    return [(turn["from"], turn["value"]) for turn in read_conversation(value, **changes).turns]


def found_or_code(read: Callable[[], Any]) -> Any:
    """Return what is read, or the code of what is wrong with it."""
    try:
        return read()
    except BadCell as bad:
        return bad.defect[0]


def part(kind: str, **values: Any) -> dict[str, Any]:
    return {"type": kind, **values}


def ask(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": "red"}]


SAME = [("human", "What?"), ("gpt", "red")]


@pytest.mark.parametrize(
    "value",
    [
        [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}],
        [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}],
        [{"from": "user", "value": "What?"}, {"from": "assistant", "value": "red"}],
        [{"role": "User", "content": "What?"}, {"role": "ASSISTANT ", "content": "red"}],
        [
            {"role": "user", "content": [part("text", text="What?")]},
            {"role": "assistant", "content": [part("text", text="red")]},
        ],
        [{"role": "user", "content": part("text", text="What?")}, {"role": "assistant", "content": ["red"]}],
        [
            {"role": "user", "content": [part("input_text", text="What?")]},
            {"role": "assistant", "content": [part("output_text", text="red")]},
        ],
        [{"role": "user", "content": [{"text": "What?"}]}, {"role": "assistant", "content": [{"text": "red"}]}],
        [{"from": None, "value": None, "role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}],
        [{"user": "What?", "assistant": "red", "source": "x"}],
        ["What?", "red"],
        {"role": ["user", "assistant"], "content": ["What?", "red"]},
        '[{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}]',
    ],
)
def test_every_spelling_of_a_conversation_gives_the_same_turns(value: Any) -> None:
    assert spoken(value) == SAME


def test_a_system_turn_becomes_the_beginning_of_the_first_question() -> None:
    turns = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "red"}]
    expected = [("human", "Be brief.\n\n<image>\nWhat?"), ("gpt", "red")]
    assert spoken([{"role": "system", "content": "Be brief."}, *turns]) == expected
    assert spoken([{"from": "system", "value": [part("text", text="Be brief.")]}, *turns]) == expected
    assert spoken(turns, system="Be brief.") == expected
    assert spoken([{"role": "system", "content": " "}, *turns]) == [("human", "<image>\nWhat?"), ("gpt", "red")]
    with pytest.raises(BadCell) as caught:
        spoken([*turns, {"role": "system", "content": "Be brief."}])
    assert caught.value.defect == ("role-unknown", "turn 2: 'system' after the first question")


@pytest.mark.parametrize(
    ("parts", "text", "pictures"),
    [
        ([part("image"), part("text", text="What?")], "<image>\nWhat?", [A]),
        ([part("text", text="What?"), part("image")], "What?\n<image>", [A]),
        ([part("image", text=None, index=0), part("text", text="What?", index=None)], "<image>\nWhat?", [A]),
        ([part("image"), part("image"), part("text", text="Which?")], "<image>\n<image>\nWhich?", [A, B]),
        ([part("image", index=1), part("text", text=" or "), part("image", index=0)], "<image> or <image>", [B, A]),
        ([part("image", image="c.png"), part("text", text="What?")], "<image>\nWhat?", [Picture("c.png")]),
        ([part("image_url", image_url={"url": DATA_URL})], "<image>", [Picture(None, PNG)]),
        ([part("input_image", image_url=DATA_URL)], "<image>", [Picture(None, PNG)]),
        (
            [part("image", source={"type": "base64", "data": base64.b64encode(PNG).decode()})],
            "<image>",
            [Picture(None, PNG)],
        ),
        ([part("text", text="What?")], "<image>\n<image>\nWhat?", [A, B]),
        ([part("text", text="Say"), part("text", text="what.")], "<image>\n<image>\nSay\nwhat.", [A, B]),
        ([part("text", text="<image> or <image>?")], "<image> or <image>?", [A, B]),
    ],
)
def test_pictures_stand_where_the_parts_of_a_message_put_them(
    parts: list[Any], text: str, pictures: list[Picture]
) -> None:
    conversation = read_conversation(ask(*parts))
    given = [A, B] if pictures[:2] in ([A, B], [B, A]) else [A] if pictures == [A] else []
    assert place_pictures(conversation, given) == pictures
    assert conversation.turns[0]["value"] == text


@pytest.mark.parametrize(
    ("value", "code", "detail"),
    [
        (None, "conversations-missing", "nothing"),
        ("no JSON", "conversations-missing", "'no JSON'"),
        (7, "conversations-missing", "7"),
        ([3], "turn-not-object", "turn 0: 3"),
        ([{"role": "user", "content": None}], "value-not-text", "turn 0: nothing"),
        ([{"role": "user", "content": 5}], "value-not-text", "turn 0: 5"),
        ([{"role": "user", "content": float("nan")}], "value-not-text", "turn 0: nan"),
        ([{"role": "user", "content": []}], "value-not-text", "turn 0: []"),
        (ask({"a": 1}), "value-not-text", "turn 0, part 0: {'a': 1}"),
        (ask(part("text", text=None)), "value-not-text", "turn 0, part 0: nothing"),
        (ask(part("text", text=3)), "value-not-text", "turn 0, part 0: 3"),
        (ask(part("video", video="a.mp4")), "media-unknown", "turn 0, part 0: type 'video'"),
        (ask(part("input_audio", data="x")), "media-unknown", "turn 0, part 0: type 'input_audio'"),
        ([*ask("a")[:1], {"role": "assistant", "content": [part("image")]}], "placeholder-in-answer", "turn 1"),
        ([{"user": "a", "assistant": None}], "value-not-text", "turn 0, assistant: nothing"),
    ],
)
def test_what_has_no_text_in_it_is_named(value: Any, code: str, detail: str) -> None:
    with pytest.raises(BadCell) as caught:
        read_conversation(value)
    assert caught.value.defect == (code, detail)


def test_more_or_fewer_parts_than_pictures_are_named() -> None:
    for parts, given, code in (
        ([part("image"), part("image", image="c.png")], [], "placeholder-repeated"),
        ([part("image", index=2)], [A], "placeholder-repeated"),
        ([part("image", index=0)], [A, B], "placeholder-missing"),
        ([part("image", image="c.png")], [A], "placeholder-missing"),
    ):
        with pytest.raises(BadCell) as caught:
            place_pictures(read_conversation(ask(*parts)), given)
        assert caught.value.defect[0] == code


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("red", "red"),
        (None, None),
        ([], None),
        (["red"], "red"),
        ([part("text", text="a"), part("text", text="b")], "a\nb"),
        (part("text", text="red"), "red"),
        (["a", "b"], "value-several"),
        ({"text": "red", "score": 1.0}, "value-not-text"),
        ([{"text": "red", "score": 1.0}], "value-not-text"),
        (3, "value-not-text"),
        (True, "value-not-text"),
        (float("nan"), "value-not-text"),
        (b"red", "value-not-text"),
        ([None], "value-not-text"),
    ],
)
def test_the_text_of_a_cell(value: Any, expected: str | None) -> None:
    assert found_or_code(lambda: read_text(value, "answer")) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ([], []),
        ("a.png", [A]),
        (["a.png", {"path": "b.png", "bytes": None}], [A, B]),
        ('["a.png", "b.png"]', [A, B]),
        (PNG, [Picture(None, PNG)]),
        ({"bytes": PNG, "path": "x.png"}, [Picture("x.png", PNG)]),
        (DATA_URL, [Picture(None, PNG)]),
        (DATA_URL.replace("data:", "DATA:")[:60] + "\n" + DATA_URL[60:], [Picture(None, PNG)]),
        (base64.b64encode(PNG).decode(), [Picture(None, PNG)]),
        ({"url": DATA_URL}, [Picture(None, PNG)]),
        ("", "image-null"),
        (b"", "image-null"),
        ([None], "image-null"),
        ({"bytes": None, "path": None}, "image-null"),
        (3, "image-not-text"),
        ([1, 2], "image-not-text"),
        ("data:image/png;base64,@@@", "image-encoded"),
        ("data:image/svg+xml,<svg/>", "image-encoded"),
    ],
)
def test_the_pictures_of_a_cell(value: Any, expected: Any) -> None:
    assert found_or_code(lambda: read_pictures(value, "image")) == expected


def test_a_path_is_not_taken_for_base64() -> None:
    assert not holds_picture("iVBORw0KGgo.png")
    assert not holds_picture("/9j/folder/name.jpg")
    assert holds_picture(base64.b64encode(encoded(picture(2), "JPEG")).decode())


def test_lists_of_roles_and_texts_that_are_not_equally_long_are_a_defect() -> None:
    equal = {"from": ["human", "gpt"], "value": ["What?", "Red"]}
    assert spoken(equal) == [("human", "What?"), ("gpt", "Red")]
    for unequal in (
        {"from": ["human", "gpt"], "value": ["What?"]},
        {"role": ["user"], "content": ["What?", "Red"]},
        {"user": ["What?", "And?"], "assistant": ["Red"]},
        {"from": [], "value": ["What?"]},
    ):
        assert found_or_code(lambda unequal=unequal: spoken(unequal)) == "turns-unequal"


def test_a_conversation_as_text_with_a_key_twice_is_a_defect() -> None:
    text = '[{"from": "human", "value": "a", "value": "b"}]'
    assert found_or_code(lambda: spoken(text)) == "key-repeated"
