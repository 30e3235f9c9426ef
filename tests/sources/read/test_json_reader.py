import base64
from pathlib import Path
from typing import Any

import pytest

from croc_cli.sources.read.json_reader import read_json_row
from croc_cli.sources.read.reader import SourceRow
from croc_cli.sources.read.readers import open_source
from croc_cli.sources.read.spec import SourceSpec
from tests.sources.data import encoded, image_row, picture, text_row, turns, write_jsonl

PNG = encoded(picture(1), "PNG")
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


def read(path: Path, **changes: Any) -> list[SourceRow]:
    return list(open_source(SourceSpec("it", path, **changes)).rows())


def test_every_row_is_read_by_its_own_keys(tmp_path: Path) -> None:
    rows = [
        {"question": "Which?", "answer": "This."},
        {"question": "Which?", "answer": "This.", "image": "1.png"},
        {"messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]},
        {"conversations": turns("<image>\nWhich?", "This."), "images": ["1.png"]},
        {"conversations": turns("Which?", "This."), "images": []},
        {"conversations": turns("<image>\nWhich?", "This."), "image": "1.png"},
    ]
    found = read(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [row.row.get("image") for row in found] == [None, "1.png", None, "1.png", None, "1.png"]
    for row in found:
        question = "<image>\nWhich?" if "image" in row.row else "Which?"
        assert row.row["conversations"] == turns(question, "This.")
    assert [row.start >= 0 for row in found] == [False, False, False, False, True, True]


def test_a_row_in_llavas_form_comes_back_as_it_is() -> None:
    for row in (image_row(), text_row(), image_row(image=["a.png", "b.png"]), image_row(image=None), [1], 3, None):
        assert read_json_row(row, row_id="x").row is row


def test_pictures_in_the_row_itself_are_read() -> None:
    for key, value in (("image", DATA_URL), ("image", base64.b64encode(PNG).decode()), ("images", [DATA_URL])):
        done = read_json_row({"id": "a", key: value, "conversations": turns()}, row_id="x")
        assert done.contents == (PNG,)
        assert done.row == {"id": "a", "image": "embedded", "conversations": turns()}


@pytest.mark.parametrize(
    ("row", "code", "detail"),
    [
        ({"a": 1}, "columns-unknown", "it has 'a'"),
        ({}, "columns-unknown", "it has none"),
        ({"video": "a.mp4", "conversations": turns("Hi")}, "media-unknown", "video: 'a.mp4'"),
        ({"image": "a.png", "images": ["b.png"], "conversations": turns()}, "images-not-one", "image: 'a.png', and"),
        ({"question": " ", "answer": "red", "image": "a.png"}, "question-missing", "question"),
        ({"question": None, "answer": "red"}, "question-missing", "question"),
        ({"question": "What?", "answer": 3}, "value-not-text", "answer: 3"),
        ({"question": "What?", "answer": float("nan")}, "value-not-text", "answer: nan"),
        ({"question": {"a": 1}, "answer": "red"}, "value-not-text", "question: {'a': 1}"),
        ({"image": None, "caption": "a dog"}, "image-null", "image: nothing, beside a caption"),
        ({"image": "", "caption": "a dog"}, "image-null", "image: ''"),
        ({"image": "a.png", "caption": ["a dog", "dogs"]}, "value-several", "caption: ['a dog', 'dogs']"),
    ],
)
def test_what_cannot_be_read_is_named(row: Any, code: str, detail: str) -> None:
    defect = read_json_row(row, row_id="x").defect
    assert defect is not None
    assert defect[0] == code
    assert defect[1].startswith(detail)


def test_a_number_picks_one_of_several_texts(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"image": "1.png", "caption": ["a dog", "dogs"]}])
    [row] = read(tmp_path / "a.jsonl", columns={"image": "image", "gpt": ("caption.1",)})
    assert row.row["conversations"][1]["value"] == "dogs"


@pytest.mark.parametrize("key", ["image_path", "image_paths", "image_file"])
def test_a_picture_under_another_key_is_no_row_of_text(tmp_path: Path, key: str) -> None:
    [row] = read(write_jsonl(tmp_path / "a.jsonl", [{key: "1.png", "conversations": turns("Which?", "This.")}]))
    assert row.row["image"] == "1.png"
    assert row.row["conversations"] == turns("<image>\nWhich?", "This.")


@pytest.mark.parametrize(
    "turns",
    [None, 3, {"from": "human"}, [None], ["text"], [{}], [{"from": "human"}], [{"from": "human", "value": None}]],
)
def test_a_row_without_image_whose_turns_are_damaged_is_left_to_the_row_check(turns: object, tmp_path: Path) -> None:
    row = {"id": "1", "conversations": turns}
    assert read_json_row(row, row_id="1", root=tmp_path) == read_json_row(row, row_id="1")
