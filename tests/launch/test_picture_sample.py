import json
import re
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import UsageError
from croc_cli.launch import picture_sample
from croc_cli.launch.picture_sample import check_pictures
from croc_cli.recipe.schema import Recipe
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.mix.recipe_mix import mix_folder, mix_spec
from tests.launch.make import recipe
from tests.sources.data import encoded, image_row, picture, text_row, write_json, write_jsonl, write_pictures


@pytest.fixture(autouse=True)
def nothing_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_sample, "_passed", set())


def llava(tmp_path: Path, folder: str, rows: list[Any], **keys: Any) -> Recipe:
    data = write_json(tmp_path / "rows.json", rows)
    source = {"kind": "llava_json", "path": str(data), "image_folder": str(tmp_path / folder)}
    return recipe("nano", data__align=source, **keys)


@pytest.mark.parametrize(
    ("given", "there", "prefix"),
    [
        ("pictures", "pictures/images", ""),
        ("pictures", "pictures/train/images", ""),
        ("pictures/images", "pictures", ""),
        ("pictures/images", ".", "pictures/images/"),
        ("pictures/images", "pictures", "images/"),
        ("pictures", ".", "pictures/"),
        ("pictures/old", "pictures/new", ""),
    ],
)
def test_an_image_folder_that_is_off_is_refused_with_the_line_to_write(
    given: str, there: str, prefix: str, tmp_path: Path
) -> None:
    rows = [image_row(number, image=f"{prefix}{number:05d}.jpg") for number in range(8)]
    write_pictures(tmp_path / there / prefix, 8)
    (tmp_path / given).mkdir(parents=True, exist_ok=True)
    wrong = llava(tmp_path, given, rows)
    with pytest.raises(UsageError, match=r"data\.align: 8 of 8 pictures that were tried do not open") as caught:
        check_pictures(wrong, "align")
    hint = caught.value.hint or ""
    written = re.search(r"write `image_folder: (.*)` under data\.align", hint)
    typed = re.search(r"--set data\.align\.image_folder=(\S+)", hint)
    assert written is not None
    assert typed is not None
    assert written[1] == typed[1]
    assert Path(written[1]).resolve() == (tmp_path / there).resolve()
    assert check_pictures(llava(tmp_path, written[1], rows), "align") is None


def test_pictures_that_are_there_pass_and_are_not_opened_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "images", 3)
    rows = [image_row(0, image=["00000.jpg", "00001.jpg"]), image_row(2), text_row()]
    good = llava(tmp_path, "images", rows)
    opened: list[str] = []
    look = picture_sample.check_image
    monkeypatch.setattr(picture_sample, "check_image", lambda place: opened.append(place.name) or look(place))
    assert check_pictures(good, "align") is None
    assert check_pictures(good, "align") is None
    assert sorted(Path(name).name for name in opened) == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert check_pictures(recipe("nano"), "align") is None


def test_a_few_bad_pictures_are_a_note_and_more_than_allowed_an_error(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "images", 20)
    (folder / "00003.jpg").write_bytes(b"<html>")
    (folder / "00004.jpg").write_bytes((folder / "00005.jpg").read_bytes()[:300])
    rows = [image_row(number) for number in range(20)]
    note = check_pictures(llava(tmp_path, "images", rows), "align")
    assert note is not None
    assert "2 of 20 pictures that were tried do not open, such as 00003.jpg" in note
    with pytest.raises(UsageError, match="2 of 20 pictures"):
        check_pictures(llava(tmp_path, "images", rows, data__max_bad_images=1), "align")
    for number in range(5, 15):
        (folder / f"{number:05d}.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="12 of 20 pictures"):
        check_pictures(llava(tmp_path, "images", rows), "align")


def test_one_folder_without_pictures_among_others_is_an_error(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images" / "coco", 20)
    rows = [image_row(number, image=f"coco/{number:05d}.jpg") for number in range(20)]
    rows += [image_row(number, image=f"vg/{number:05d}.jpg") for number in range(3)]
    with pytest.raises(UsageError, match=r"3 of 23 pictures .* such as .*vg/00000.jpg \(no such file\)"):
        check_pictures(llava(tmp_path, "images", rows), "align")


def test_a_large_file_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_sample, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(picture_sample, "_BLOCK_BYTES", 2000)
    write_pictures(tmp_path / "images", 1)
    rows = [image_row(0, id=str(number)) for number in range(2000)]
    assert check_pictures(llava(tmp_path, "images", rows), "align") is None
    with pytest.raises(UsageError, match=r"1 of 1 pictures"):
        check_pictures(llava(tmp_path, "nowhere", rows), "align")


def test_a_mixs_source_with_another_image_root_is_named(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "mine.jsonl", [image_row(number) for number in range(6)])
    write_pictures(tmp_path / "all" / "images", 6)
    source = {"path": str(rows), "image_root": str(tmp_path / "all")}
    mixed = recipe("nano", data__root=str(tmp_path), data__align={"kind": "mix", "sources": {"mine": source}})
    build_mix(mix_spec(mixed, "align"), mix_folder(mixed, "align"))
    with pytest.raises(UsageError, match=r"data\.align: 6 of 6 pictures") as caught:
        check_pictures(mixed, "align")
    assert f"write `image_root: {tmp_path}/all/images` for source mine of data.align" in (caught.value.hint or "")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    import os

    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "00000.jpg")
    with pytest.raises(UsageError, match="a pipe, expected a file"):
        check_pictures(llava(tmp_path, "images", [image_row(0)]), "align")


def test_names_in_texts_are_no_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 1)
    quoted = json.dumps({"image": "none.jpg"})
    rows = [image_row(0), text_row(conversations=[{"from": "human", "value": quoted}, {"from": "gpt", "value": "a"}])]
    assert check_pictures(llava(tmp_path, "images", rows), "align") is None


def test_pictures_in_the_json_itself_are_no_paths(tmp_path: Path) -> None:
    import base64

    (tmp_path / "images").mkdir()
    text = base64.b64encode(encoded(picture(), "PNG")).decode()
    rows = [image_row(0, image=text), image_row(1, image=f"data:image/png;base64,{text}")]
    assert check_pictures(llava(tmp_path, "images", rows), "align") is None
