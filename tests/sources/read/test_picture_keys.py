import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from croc_cli.sources.read.json_reader import read_json_row
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.readers import open_source
from croc_cli.sources.read.rows import row_error
from croc_cli.sources.read.spec import SourceSpec
from tests.sources.data import encoded, picture, turns

KEYS = ("img", "picture", "photo", "pic", "Image", "IMAGES", "image-path", "img_path", "image_url", "file_name")


def read(row: dict[str, Any]) -> tuple[Any, str | None]:
    """Return (image, code of the error) of a row as it is read."""
    done = read_json_row(row, row_id="x")
    error = done.defect or row_error(done.row)
    return (done.row or {}).get("image"), error[0] if error else None


@pytest.mark.parametrize("key", KEYS)
def test_pictures_are_read_under_other_names(key: str) -> None:
    assert read({key: "p.png", "conversations": turns("<image>\nWhat?")}) == ("p.png", None)
    assert read({key: "p.png", "conversations": turns("What?")}) == ("p.png", None)
    assert read({key: "p.png", "messages": [*messages("What?")]}) == ("p.png", None)
    assert read({key: "p.png", "question": "What?", "answer": "Red"}) == ("p.png", None)
    assert read({"pictures": ["p.png", "q.png"], "conversations": turns("What?")}) == (["p.png", "q.png"], None)


def messages(question: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question, **more}, {"role": "assistant", "content": "Red"}]


@pytest.mark.parametrize("more", [{"images": ["p.png"]}, {"image": "p.png"}])
def test_pictures_of_a_turn_are_read(more: dict[str, Any]) -> None:
    assert read({"messages": messages("What?", **more)}) == ("p.png", None)
    assert read({"messages": messages("<image> What?", **more)}) == ("p.png", None)
    assert read({"messages": messages("<image><image>", **more)})[1] == "placeholder-repeated"
    first, second = turns("What?")
    assert read({"id": "1", "conversations": [{**first, **more}, second]}) == ("p.png", None)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"screenshot": "a/p.png"}, "picture-unread"),
        ({"metadata": {"image": "p.JPG"}}, "picture-unread"),
        ({"attachments": [{"path": "p.webp"}]}, "picture-unread"),
        ({"thing": "data:image/png;base64," + "A" * 200}, "picture-unread"),
        ({"video_path": "anything"}, "media-unknown"),
        ({"Videos": ["a"]}, "media-unknown"),
        ({"recording": "a.wav"}, "media-unknown"),
        ({"image": "a.png", "images": ["b.png"]}, "images-not-one"),
        ({"picture": "a.png", "photo": "b.png"}, "images-not-one"),
    ],
)
def test_a_picture_that_nothing_would_look_at_is_a_defect(more: dict[str, Any], code: str) -> None:
    assert read({"id": "1", "conversations": turns("What?"), **more})[1] == code
    assert read({"question": "What?", "answer": "Red", **more})[1] == code


def test_keys_that_name_no_picture_leave_a_row_as_it_is() -> None:
    for more in (
        {"file_name": "notes.txt"},
        {"source": "a.png"},
        {"image_id": 7},
        {"images": []},
        {"url": "https://example.com/a"},
        {"image": "a.png", "images": ["a.png"], "mask": "m.png"},
    ):
        row = {"id": "a.png", "conversations": turns("<image>\nWhat?" if "image" in more else "What?"), **more}
        assert read_json_row(row, row_id="x").row is row
        assert row_error(row) is None


def test_pictures_by_number_are_read() -> None:
    row = {"image": {"<image_00>": "a.png", "<image_01>": "b.png"}, "messages": messages("<image_00> or <image_01>?")}
    assert read(row) == (["a.png", "b.png"], None)


def test_a_table_with_a_picture_in_a_column_that_is_not_read_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("shot,question,answer\n,What?,Red\np.png,What?,Red\n")
    with pytest.raises(DataError, match=r"a picture under a key that croc does not read \(shot: 'p\.png'\)") as caught:
        open_source(SourceSpec("it", table))
    assert caught.value.hint == "add `image: shot` to the source's columns"
    named = SourceSpec("it", table, columns={"human": ["question"], "gpt": ["answer"], "image": "shot"})
    assert [row.row.get("image") for row in open_source(named).rows()] == [None, "p.png"]


def test_a_parquet_with_pictures_in_a_column_of_another_name(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    png = encoded(picture(1), "PNG")
    for name in ("picture", "shot"):
        rows = [{name: {"bytes": png, "path": None}, "question": "What?", "answer": "Red"}]
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    [row] = open_source(SourceSpec("it", tmp_path / "picture.parquet")).rows()
    assert row.contents == (png,)
    with pytest.raises(DataError, match=r"shot\.bytes"):
        open_source(SourceSpec("it", tmp_path / "shot.parquet"))


def test_a_tars_sample_with_a_picture_beside_the_tar_is_a_defect(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, more in enumerate(({"img": "p.png"}, {"shot": "p.png"}, {})):
            content = json.dumps({"conversations": turns("What?"), **more}).encode()
            member = tarfile.TarInfo(f"{number}.json")
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    codes = [row.defect[0] if row.defect else None for row in open_source(SourceSpec("it", tmp_path / "a.tar")).rows()]
    assert codes == ["image-null", "picture-unread", None]
