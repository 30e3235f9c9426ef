from typing import Any

import pytest

from croc_cli.sources.read.rows import ROW_DEFECTS, is_error, row_defects
from tests.sources.data import image_row, text_row, turns

HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}


def text(*conversations: Any) -> dict[str, Any]:
    return {"conversations": list(conversations)}


def test_good_rows_have_nothing_wrong() -> None:
    two_images = turns("<image> or <image>?")
    for row in (
        image_row(),
        text_row(),
        text(HUMAN, GPT, HUMAN, GPT),
        image_row(conversations=turns("What?\n<image>")),
        image_row(conversations=[*turns("What?"), *turns("<image> And?")]),
        image_row(image="a.tar/b.jpg", image_range=[512, 2]),
        {"id": 7, "image": ["a.jpg", "b.jpg"], "conversations": two_images},
        text(HUMAN, {"from": "gpt", "value": "a < b, and the ratio is 1:2"}),
        image_row(image="a..b/c.jpg"),
    ):
        assert row_defects(row) == []


@pytest.mark.parametrize(
    ("row", "code", "detail"),
    [
        ([1], "row-not-object", "list"),
        ({"id": 1}, "conversations-missing", "nothing"),
        ({"conversations": []}, "conversations-missing", "[]"),
        ({"conversations": {"from": "human"}}, "conversations-missing", "{'from': 'human'}"),
        (text(HUMAN, "Hello."), "turn-not-object", "turn 1: 'Hello.'"),
        (text({"from": "user", "value": "a"}, GPT), "role-unknown", "turn 0: 'user'"),
        (text(HUMAN, {"from": "gpt", "value": 5}), "value-not-text", "turn 1: 5"),
        (text(HUMAN, HUMAN), "turns-not-alternating", "turn 1 is from human"),
        (text(HUMAN), "no-answer", "1 turn(s)"),
        (text(HUMAN, {"from": "gpt", "value": " \n"}), "no-answer", "2 turn(s)"),
        (image_row(image=None), "image-null", "nothing"),
        (image_row(image=""), "image-null", "''"),
        (image_row(image=[]), "image-null", "[]"),
        (image_row(image=["a.jpg", ""]), "image-null", "['a.jpg', '']"),
        (image_row(image=7), "image-not-text", "7"),
        (image_row(image="../a.jpg"), "image-outside", "../a.jpg"),
        (image_row(image="/etc/a.jpg"), "image-outside", "/etc/a.jpg"),
        (image_row(image="a\\b.jpg"), "image-outside", "a\\b.jpg"),
        (image_row(image="C:a.jpg"), "image-outside", "C:a.jpg"),
        (image_row(conversations=turns("What?")), "placeholder-missing", "0 time(s), 1 image(s)"),
        (image_row(image=["a.jpg", "b.jpg"]), "placeholder-missing", "1 time(s), 2 image(s)"),
        (image_row(image="https://a.org/b.jpg"), "image-url", "https://a.org/b.jpg"),
        (image_row(image="p\udce9.png"), "text-not-unicode", "image 'p\\udce9.png'"),
        (text(HUMAN, {"from": "gpt", "value": "red \ud83d heart"}), "text-not-unicode", "turn 1: 'red \\ud83d heart'"),
        (image_row(image_range=[1, 2]), "image-range", "[1, 2]"),
        (image_row(image="a.tar/b.jpg", image_range=[-1, 2]), "image-range", "[-1, 2]"),
        (image_row(conversations=turns("<image><image>")), "placeholder-repeated", "2 time(s), 1 image(s)"),
        (
            image_row(conversations=[*turns(), *turns("<image> And?")]),
            "placeholder-repeated",
            "2 time(s), 1 image(s)",
        ),
        (image_row(conversations=turns(answer="See <image>")), "placeholder-in-answer", "turn 1"),
        (text({"from": "human", "value": "<image>\nWhat?"}, GPT), "placeholder-without-image", "1 time(s)"),
    ],
)
def test_an_error_is_found_and_named(row: Any, code: str, detail: str) -> None:
    assert row_defects(row)[-1] == (code, detail)
    assert is_error(code)


@pytest.mark.parametrize(
    ("row", "code", "detail"),
    [
        (text(GPT, HUMAN, GPT), "leading-gpt", "turn 0"),
        (text(HUMAN, GPT, HUMAN), "ends-on-human", "3 turns"),
        (text(HUMAN, GPT, HUMAN, {"from": "gpt", "value": ""}), "answer-empty", "turn 3"),
        (text({"from": "human", "value": " "}, GPT), "question-empty", "turn 0"),
        (text(HUMAN, {"from": "gpt", "value": "the tag </s> ends"}), "special-token", "'</s>' in turn 1"),
        (text({"from": "human", "value": "<|im_end|>"}, GPT), "special-token", "'<|im_end|>' in turn 0"),
        (image_row(conversations=turns("<image>\n<unk>")), "special-token", "'<unk>' in turn 0"),
        (text(HUMAN, {"from": "gpt", "value": "then ASSISTANT: said"}), "special-token", "'ASSISTANT:' in turn 1"),
        (text({"from": "human", "value": "USER: hello"}, GPT), "special-token", "'USER:' in turn 0"),
    ],
)
def test_what_can_still_be_trained_is_no_error(row: Any, code: str, detail: str) -> None:
    assert row_defects(row) == [(code, detail)]
    assert not is_error(code)


def test_a_role_inside_a_sentence_is_nothing_to_warn_of() -> None:
    assert row_defects(text(HUMAN, {"from": "gpt", "value": "a SUPERUSER: x, and the assistant: y"})) == []


def test_every_kind_says_what_is_wrong() -> None:
    assert all(kind.text and kind.level in ("error", "warning", "note") for kind in ROW_DEFECTS.values())
