import base64
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from croc_cli.data.dataset import DataError, LlavaJsonDataset, MixDataset
from croc_cli.data.image import BadImageError, open_image
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.read import json_index
from croc_cli.sources.read.spec import MixSpec, SourceSpec
from croc_cli.sources.verify.verify import verify_mix
from tests.sources.data import encoded, picture, small_spec, write_tar

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
TEXT_TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]


def write(tmp_path: Path, rows: Any, *, lines: bool = False) -> Path:
    path = tmp_path / "data.json"
    text = "\n\n".join(json.dumps(row) for row in rows) if lines else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


def read(tmp_path: Path, rows: Any, **changes: Any) -> LlavaJsonDataset:
    return LlavaJsonDataset(write(tmp_path, rows), tmp_path / "images", **changes)


@pytest.mark.parametrize("lines", [False, True])
def test_a_list_and_jsonl_give_the_same_samples(tmp_path: Path, lines: bool) -> None:
    rows = [
        {"id": 7, "image": "a/b.jpg", "conversations": TURNS},
        {"id": "x", "conversations": TEXT_TURNS, "model": "m"},
        {
            "id": "y",
            "image": ["1.png", "2.png"],
            "conversations": [{**TURNS[0], "value": "<image> or <image>?"}, TURNS[1]],
        },
    ]
    dataset = LlavaJsonDataset(write(tmp_path, rows, lines=lines), tmp_path / "images")
    assert len(dataset) == 3
    assert [sample.id for sample in dataset] == ["7#0", "x#1", "y#2"]
    assert [[Path(image.name) for image in sample.images] for sample in dataset] == [
        [tmp_path / "images/a/b.jpg"],
        [],
        [tmp_path / "images/1.png", tmp_path / "images/2.png"],
    ]
    assert dataset[1].turns[1].text == "Hello."
    assert dataset.length_hint(0) > dataset.length_hint(1) > 0


def test_one_leading_gpt_turn_is_left_out(tmp_path: Path) -> None:
    dataset = read(tmp_path, [{"conversations": [{"from": "gpt", "value": "So?"}, *TEXT_TURNS]}])
    assert [turn.text for turn in dataset[0].turns] == ["Hi", "Hello."]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (3, r"row 1: a row that is not an object \(int\)"),
        ({"id": 1}, r"row 1: a row whose keys do not say .* \(it has 'id'\)"),
        ({"conversations": [{"from": "tool", "value": "a"}]}, r"row 1: a role other than .* \(turn 0: 'tool'\)"),
        ({"conversations": [{"from": "human", "value": 5}]}, r"row 1: a value that is not text \(turn 0: 5\)"),
        ({"conversations": [TEXT_TURNS[0], TEXT_TURNS[0]]}, r"do not alternate, .* \(turn 1 is from human\)"),
        ({"image": None, "conversations": TURNS}, r"row 1: an image that is null or empty \(nothing\)"),
        ({"image": "", "conversations": TURNS}, r"row 1: an image that is null or empty \(''\)"),
        ({"image": "../a.jpg", "conversations": TURNS}, r"leaves its folder \(\.\./a\.jpg\)"),
        ({"image": "/etc/a.jpg", "conversations": TURNS}, r"leaves its folder \(/etc/a\.jpg\)"),
        ({"image": [], "conversations": TURNS}, r"row 1: an image that is null or empty \(\[\]\)"),
        ({"image": "a.jpg", "conversations": TEXT_TURNS}, r"more images than <image> .* \(0 time\(s\), 1 image\(s\)\)"),
        ({"conversations": TURNS}, r"<image> in a row without image \(1 time\(s\)\)"),
        ({"images": ["a.jpg", "b.jpg"], "conversations": TURNS}, r"more images than <image> .* \(1 time\(s\), 2 image"),
        ({"conversations": [TEXT_TURNS[0], {"from": "gpt", "value": "red \ud83d"}]}, "half of a character"),
        (
            {"videos": ["a.mp4"], "conversations": TEXT_TURNS},
            r"row 1: a row with video or sound.* \(videos: \['a.mp4'\]",
        ),
    ],
)
def test_a_wrong_row_is_named_with_its_key(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, [{"conversations": TEXT_TURNS}, row])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("<!DOCTYPE html>", "line 1: not JSON", "web page"),
        ("version https://git-lfs.github.com/spec/v1", "line 1: not JSON", "git-lfs pointer"),
        ("[\n oops]", "line 2, column 2: not JSON: expected a value", ""),
        ("", "no rows", ""),
        ("[]", "no rows", ""),
    ],
)
def test_a_file_that_is_not_data_is_refused(tmp_path: Path, content: str, message: str, hint: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        LlavaJsonDataset(path, tmp_path)
    assert hint in (caught.value.hint or "")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        LlavaJsonDataset(tmp_path / "none.json", tmp_path)


def test_the_draw_of_some_samples_depends_on_the_seed_alone(tmp_path: Path) -> None:
    rows = [{"id": str(number), "conversations": TEXT_TURNS} for number in range(50)]
    first = [sample.id for sample in read(tmp_path, rows, num_samples=10, seed=1)]
    assert first == [sample.id for sample in read(tmp_path, rows, num_samples=10, seed=1)]
    assert first != [sample.id for sample in read(tmp_path, rows, num_samples=10, seed=2)]
    assert len(set(first)) == 10
    with pytest.raises(DataError, match="50 rows, fewer than num_samples = 51"):
        read(tmp_path, rows, num_samples=51)


def make_mix(tmp_path: Path) -> Path:
    build_mix(small_spec(tmp_path), tmp_path / "mix")
    return tmp_path / "mix"


def test_a_mix_gives_its_rows_as_samples_whose_pictures_open(tmp_path: Path) -> None:
    dataset = MixDataset(make_mix(tmp_path))
    assert len(dataset) == 30
    by_id = {dataset[index].id: dataset[index] for index in range(30)}
    caption, text = by_id["captions#3"], by_id["text#4"]
    assert [turn.text for turn in caption.turns] == ["<image>\nWhat colour?", "Picture 3 shows a shape."]
    assert open_image(caption.images[0]).size == (48, 40)
    assert [turn.text for turn in text.turns] == ["How much is 4 + 1?", "5"]
    assert text.images == ()
    assert sum(dataset.shows_images) == 10
    hints = {dataset[index].id: dataset.length_hint(index) for index in range(30)}
    assert hints["captions#3"] > 576 > hints["text#4"] > 0


def test_known_lengths_take_the_place_of_estimates(tmp_path: Path) -> None:
    dataset = MixDataset(make_mix(tmp_path), lengths=np.arange(30, dtype=np.uint32), num_visual_tokens=36)
    assert [dataset.length_hint(index) for index in range(30)] == [
        index + 36 * len(dataset[index].images) for index in range(30)
    ]


def test_a_dataset_goes_to_other_processes_as_the_name_of_its_files(tmp_path: Path) -> None:
    for dataset in (MixDataset(make_mix(tmp_path)), read(tmp_path, [{"conversations": TEXT_TURNS}] * 500)):
        dataset[0]
        sent = pickle.dumps(dataset)
        assert pickle.loads(sent)[0] == dataset[0]


def test_an_image_in_a_tar_is_read_in_place(tmp_path: Path) -> None:
    content = encoded(picture(5))
    write_tar(tmp_path / "tars" / "0.tar", {"000.txt": b"a circle", "000.jpg": content})
    build_mix(MixSpec("it", (SourceSpec("it", tmp_path / "tars"),), tmp_path), tmp_path / "mix")
    [image] = MixDataset(tmp_path / "mix")[0].images
    assert open_image(image).tobytes() == Image.open(io.BytesIO(content)).tobytes()
    (tmp_path / "tars" / "0.tar").write_bytes((tmp_path / "tars" / "0.tar").read_bytes()[:1600])
    with pytest.raises(BadImageError, match=r"0\.tar/000\.jpg: .*ends before it"):
        open_image(image)


def test_the_index_of_a_large_file_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(json_index, "CACHED_BYTES", 1)
    rows = [{"id": n, "conversations": TEXT_TURNS} for n in range(20)]
    first = read(tmp_path, rows)
    monkeypatch.setattr(json_index, "_build", lambda *_: pytest.fail("built again"))
    again = LlavaJsonDataset(tmp_path / "data.json", tmp_path)
    assert [sample.id for sample in again] == [sample.id for sample in first]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(read(tmp_path, rows[:7])) == 7  # another size, another index


def test_samples_are_counted_from_either_end(tmp_path: Path) -> None:
    dataset = read(tmp_path, [{"id": n, "conversations": TEXT_TURNS} for n in range(3)])
    assert dataset[-1].id == "2#2"
    with pytest.raises(IndexError, match="sample 3 is not one of 3"):
        dataset[3]


def as_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def test_several_pictures_of_a_row_go_from_any_form_into_a_mix_and_out_of_it(tmp_path: Path) -> None:
    contents = [encoded(picture(number), "PNG") for number in range(4)]
    (tmp_path / "images").mkdir()
    for number, content in enumerate(contents):
        (tmp_path / "images" / f"{number}.png").write_bytes(content)
    question = [{"type": "image"}, {"type": "text", "text": " or "}, {"type": "image"}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "The first."}]
    in_parts = [messages[0], {"role": "assistant", "content": [{"type": "text", "text": "The first."}]}]
    table = [{"images": [{"bytes": one, "path": None} for one in contents[:2]], "messages": in_parts}]
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "table.parquet")
    rows = [
        {"images": ["0.png", "1.png"], "messages": messages},
        {"image": ["0.png", as_url(contents[1])], "conversations": as_turns("<image> or <image>")},
        {"images": ["2.png"], "conversations": as_turns("<image>\nWhat?")},
    ]
    write(tmp_path, rows)
    sources = (
        SourceSpec("json", tmp_path / "data.json", image_root=tmp_path / "images"),
        SourceSpec("table", tmp_path / "table.parquet"),
    )
    manifest = build_mix(MixSpec("it", sources, tmp_path), tmp_path / "mix")
    assert (manifest.rows, manifest.image_rows) == (4, 4)
    mixed = MixDataset(tmp_path / "mix")
    by_id = {mixed[index].id: mixed[index] for index in range(4)}
    direct = LlavaJsonDataset(tmp_path / "data.json", tmp_path / "images")
    by_id |= {f"direct#{number}": direct[number] for number in range(3)}
    for name in ("json#0", "json#1", "table#0", "direct#0", "direct#1"):
        sample = by_id[name]
        assert [turn.text for turn in sample.turns] == ["<image> or <image>", "The first."]
        assert [open_image(image).tobytes() for image in sample.images] == [
            Image.open(io.BytesIO(content)).tobytes() for content in contents[:2]
        ], name
    for name in ("json#2", "direct#2"):
        [image] = by_id[name].images
        assert open_image(image).tobytes() == Image.open(io.BytesIO(contents[2])).tobytes()
    assert [int(n) for n in sorted(mixed.mix.index.images)] == [1, 2, 2, 2]
    assert verify_mix(tmp_path / "mix", deep=True, workers=1).ok


def as_turns(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "The first."}]


def test_a_row_of_a_mix_that_was_changed_is_named(tmp_path: Path) -> None:
    folder = make_mix(tmp_path)
    rows = (folder / "rows.jsonl").read_bytes()
    (folder / "rows.jsonl").write_bytes(b"x" + rows[1:])
    dataset = MixDataset(folder)
    first = int(np.argmin(dataset.mix.index.offset))
    with pytest.raises(DataError, match=r"mix, row captions#0: line 1, column 1: not JSON") as caught:
        dataset[first]
    assert "make the mix again" in (caught.value.hint or "")
