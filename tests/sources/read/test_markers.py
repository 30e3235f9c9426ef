import json
from pathlib import Path
from typing import Any

import pytest

from croc_cli.data.dataset import DataError, LlavaJsonDataset
from croc_cli.sources.read.json_reader import read_json_row
from croc_cli.sources.read.readers import open_source
from croc_cli.sources.read.rows import row_error
from croc_cli.sources.read.spec import SourceSpec
from tests.sources.data import turns

ONE_PICTURE = [
    ("<|vision_start|><|image_pad|><|vision_end|>What?", "<image>What?"),
    ("<|image_pad|><|image_pad|><|image_pad|>\nWhat?", "<image>\nWhat?"),
    ("<|image_1|>\nWhat?", "<image>\nWhat?"),
    ("<|image|>What?", "<image>What?"),
    ("<ImageHere>What?", "<image>What?"),
    ("<Img><ImageHere></Img> What?", "<image> What?"),
    ("<image_placeholder>What?", "<image>What?"),
    ("<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat?", "<image>\nWhat?"),
    ("<start_of_image>What?", "<image>What?"),
    ("Look at <img_1>: what?", "Look at <image>: what?"),
    ("[IMG]\nWhat?", "<image>\nWhat?"),
    ("What? [IMG]", "What? <image>"),
    ("<IMAGE>What?", "<image>What?"),
    ("<img>\nWhat?", "<image>\nWhat?"),
    ("{image}\nWhat?", "<image>\nWhat?"),
    ("(<image>./</image>)\nWhat?", "<image>\nWhat?"),
    ("<|vision_start|><image><|vision_end|>What?", "<image>What?"),
]
HONEST = [
    "What is the <img> tag in HTML?",
    "<img> tags in HTML: what are they?",
    'Why does <img src="a.png" alt="x"> show nothing?',
    "<html>\n<img>\n<video></video>\n</html>",
    "[IMG]http://example.com/a.png[/IMG] is BBCode?",
    "What does `<|image_pad|>` mean in Qwen's template?",
    "'<ImageHere>' means?",
    "x[img] = y[image]",
    'print(f"{image}") prints what?',
    "# My project\n![Logo](docs/logo.png)\nShorten this README.",
    "<video> autoplay does not work",
]


def read(question: str, **keys: Any) -> tuple[Any, str | None, str | None]:
    """Return (image, first question, code of the error) of a row as it is read."""
    done = read_json_row({"id": "1", **keys, "conversations": turns(question)}, row_id="x")
    error = done.defect or row_error(done.row)
    row = done.row or {"conversations": [{"value": None}]}
    return row.get("image"), row["conversations"][0]["value"], error[0] if error else None


@pytest.mark.parametrize(("question", "read_as"), ONE_PICTURE)
@pytest.mark.parametrize("key", ["image", "images"])
def test_a_marker_stands_for_the_rows_picture(question: str, read_as: str, key: str) -> None:
    assert read(question, **{key: "p.png" if key == "image" else ["p.png"]}) == ("p.png", read_as, None)


@pytest.mark.parametrize(("question", "read_as"), ONE_PICTURE)
def test_a_marker_in_a_row_without_picture_is_a_defect(question: str, read_as: str) -> None:
    assert read(question)[2] in ("marker-without-image", "placeholder-without-image")


@pytest.mark.parametrize("question", HONEST)
def test_honest_text_stays_as_it_is(question: str) -> None:
    for row in (
        {"id": "1", "conversations": turns(question)},
        {"id": "1", "image": "p.png", "conversations": turns(f"<image>\n{question}")},
    ):
        assert read_json_row(row, row_id="x").row is row
        assert row_error(row) is None


def test_a_path_between_img_tags_is_a_picture() -> None:
    assert read("<img>a/p.png</img>What?") == ("a/p.png", "<image>What?", None)
    assert read("Picture 1: <img>p.png</img>\nPicture 2: <img>q.jpg</img>\nWhich?") == (
        ["p.png", "q.jpg"],
        "Picture 1: <image>\nPicture 2: <image>\nWhich?",
        None,
    )
    assert read("<img>p.png</img>What?", image="p.png") == ("p.png", "<image>What?", None)
    assert read("<img>p.png</img>What?", image="q.png")[2] == "placeholder-missing"
    assert read("<image>\n<img>p.png</img>What?", image="q.png")[2] == "marker-beside"
    assert read("<img>https://example.com/p.png</img>What?")[2] == "image-url"


def test_numbers_say_which_picture_it_is() -> None:
    both = ["p.png", "q.png"]
    assert read("<|image_2|> or <|image_1|>?", images=both)[:2] == (["q.png", "p.png"], "<image> or <image>?")
    assert read("<image_00> or <image_01>?", images=both)[:2] == (both, "<image> or <image>?")
    assert read("<image_1>?", images=both)[2] == "placeholder-missing"
    assert read("<image_3>?", images=both)[2] == "placeholder-repeated"


@pytest.mark.parametrize("question", ["<|video_pad|>What?", "<|AUDIO|>What?", "<|audio_1|>\nWhat?", "<video>\nWhat?"])
def test_a_marker_of_video_or_sound_is_a_defect(question: str) -> None:
    assert read(question)[2] == "media-unknown"


@pytest.mark.parametrize(
    "text", ["![](p.png)\nWhat?", "See ![a](<p.png>)", "<img src='p.png'>What?", "![](file://p.png)"]
)
def test_a_picture_that_the_text_names_is_a_defect_where_that_file_is_there(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"id": "1", "conversations": turns(text)}]))
    source = SourceSpec("it", file, image_root=tmp_path)
    assert [row.defect for row in open_source(source).rows()] == [None]
    assert len(LlavaJsonDataset(file, tmp_path)) == 1
    (tmp_path / "p.png").write_bytes(b"a picture")
    [row] = open_source(source).rows()
    assert row.defect is not None
    assert row.defect[0] == "picture-in-text"
    with pytest.raises(DataError, match=r"row 0: a picture's file named in the question \('.*p\.png'\)"):
        LlavaJsonDataset(file, tmp_path)


def test_a_table_of_questions_is_read_the_same_way(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("image,question,answer\np.png,<|image_pad|>What?,Red\n,<|image_pad|>What?,Red\n")
    first, second = open_source(SourceSpec("it", table)).rows()
    assert first.row["conversations"][0]["value"] == "<image>What?"
    assert second.defect == ("marker-without-image", "'<|image_pad|>' in question 0")
