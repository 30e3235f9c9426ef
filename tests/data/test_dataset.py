import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from croc_cli.data.dataset import DataError, LlavaJsonDataset, MixDataset
from croc_cli.data.image import BadImageError, open_image
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.read import json_index
from croc_cli.sources.read.spec import MixSpec, SourceSpec
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
        (3, "row 1: expected an object, got int"),
        ({"id": 1}, "row 1, key conversations: expected a list of turns, got nothing"),
        (
            {"conversations": [{"from": "user", "value": "a"}]},
            r"row 1, key conversations\[0\].from: expected human or gpt",
        ),
        ({"conversations": [{"from": "human", "value": 5}]}, r"conversations\[0\].value: expected text, got 5"),
        ({"conversations": [TEXT_TURNS[0], TEXT_TURNS[0]]}, "turn 1 is from 'human', expected 'gpt'"),
        ({"image": None, "conversations": TURNS}, "row 1, key image: expected a path or a list of paths, got nothing"),
        ({"image": "", "conversations": TURNS}, 'row 1, key image: expected a path or a list of paths, got ""'),
        ({"image": "../a.jpg", "conversations": TURNS}, "'../a.jpg' does not stay inside the image folder"),
        ({"image": "/etc/a.jpg", "conversations": TURNS}, "'/etc/a.jpg' does not stay inside the image folder"),
        ({"image": [], "conversations": TURNS}, "the list is empty"),
        (
            {"image": "a.jpg", "conversations": TEXT_TURNS},
            "row 1, key conversations: 0 <image> in the human turns, but 1",
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
        ("version https://git-lfs.github.com/spec/v1", "line 1: not JSON", "Git LFS pointer"),
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
