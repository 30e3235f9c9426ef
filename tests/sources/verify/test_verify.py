import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from croc_cli.errors import UsageError
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.read.index import MixFolder
from croc_cli.sources.verify import image_pass
from croc_cli.sources.verify.image_cache import ImageCache
from croc_cli.sources.verify.verify import StageCheck, VerifyReport, verify_mix
from tests.mounts import mounted
from tests.sources.data import (
    encoded,
    image_row,
    picture,
    small_spec,
    text_row,
    turns,
    write_json,
    write_jsonl,
    write_pictures,
    write_tar,
)


def found(report: VerifyReport) -> dict[str, int]:
    return {finding.code: finding.count for finding in report.findings}


def examples(report: VerifyReport, code: str) -> tuple[str, ...]:
    return next(finding.examples for finding in report.findings if finding.code == code)


def with_picture(tmp_path: Path, content: bytes, name: str = "it.jpg") -> Path:
    """A file of one good row and one whose image has the given content."""
    write_pictures(tmp_path / "images", 1)
    (tmp_path / "images" / name).write_bytes(content)
    return write_json(tmp_path / "rows.json", [image_row(0), image_row(1, image=name)])


def bomb() -> bytes:
    """A PNG whose header promises more pixels than anyone has memory for."""
    content = bytearray(encoded(picture(), "PNG"))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def animated() -> bytes:
    buffer = io.BytesIO()
    picture(1).save(buffer, "GIF", save_all=True, append_images=[picture(50), picture(99)])
    return buffer.getvalue()


def test_good_data_has_nothing_wrong(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    build_mix(spec, tmp_path / "mix")
    for path, folder in ((tmp_path / "mix", None), (tmp_path / "captions.json", tmp_path / "pictures")):
        report = verify_mix(path, image_folder=folder)
        assert report.ok
        assert found(report) == {}
        assert report.list_file is None


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("content", "name", "code", "level", "detail"),
    [
        (encoded(picture())[:400], "it.jpg", "image-unreadable", "error", ""),
        (b"", "it.jpg", "image-empty", "error", ""),
        (b"<!DOCTYPE html><html></html>", "it.jpg", "image-not-image", "error", "<!DOCTYPE"),
        (encoded(Image.new("RGB", (1, 1))), "it.jpg", "image-tiny", "error", "1 × 1"),
        (encoded(Image.new("RGB", (4000, 10)), "PNG"), "it.png", "image-ribbon", "error", "4000 × 10"),
        (encoded(Image.new("RGB", (900, 30)), "PNG"), "it.png", "image-wide", "warning", "900 × 30"),
        (bomb(), "it.png", "image-bomb", "error", "60000"),
        (encoded(picture(), "GIF"), "it.jpg", "image-other-format", "warning", "GIF in .jpg"),
        (encoded(picture(), "PNG"), "it.JPG", "image-other-format", "warning", "PNG in .JPG"),
        (animated(), "it.gif", "image-animated", "warning", "3 frames"),
        (encoded(picture().convert("CMYK")), "it.jpg", "image-mode", "warning", "CMYK"),
        (encoded(Image.new("I;16", (40, 40), 5000), "PNG"), "it.png", "image-mode", "warning", "I;16"),
        (encoded(picture().convert("P"), "PNG"), "it.png", "image-mode", "warning", "P"),
    ],
)
def test_each_kind_of_bad_picture_is_named(
    tmp_path: Path, content: bytes, name: str, code: str, level: str, detail: str
) -> None:
    report = verify_mix(with_picture(tmp_path, content, name), image_folder=tmp_path / "images", deep=True)
    [finding] = report.findings
    assert (finding.code, finding.level, finding.count) == (code, level, 1)
    assert finding.examples[0].startswith(name)
    assert detail in finding.examples[0]
    assert report.ok == (level != "error")
    assert report.bad_rows == (level == "error")


def test_missing_files_are_counted_by_folder_and_listed(tmp_path: Path) -> None:
    write_pictures(tmp_path / "coco" / "train2017", 3)
    rows = [image_row(n, image=f"coco/train2017/{n:05d}.jpg") for n in range(3)]
    rows += [image_row(n, image=f"vg/VG_100K/{n}.jpg") for n in range(10, 40)]
    report = verify_mix(write_json(tmp_path / "rows.json", rows), image_folder=tmp_path)
    assert report.prefixes == (("vg/VG_100K", 0, 30), ("coco/train2017", 3, 0))
    assert found(report) == {"image-missing": 30}
    assert len(examples(report, "image-missing")) == 20
    assert report.bad_rows == 30
    assert report.list_file == tmp_path / "rows.json.problems.txt"
    lines = report.list_file.read_text().splitlines()
    assert len(lines) == 30
    assert lines[0] == "image-missing\tvg/VG_100K/10.jpg\tNo such file or directory"


@pytest.mark.parametrize(
    ("there", "row", "advice"),
    [
        ("images/images/1.jpg", "images/1.jpg", "the folder is nested; mv"),
        ("images/set/1.jpg", "images/1.jpg", "one level too deep"),
        ("1.jpg", "images/1.jpg", "one level too high"),
        ("data/images/1.jpg", "images/1.jpg", "paths start one level deeper; set the image root to"),
        ("images/1.png", "images/1.jpg", "it ends in .png there"),
        ("images/a.JPG", "images/A.jpg", "is written a.JPG there: names are case-sensitive"),
        ("coco/train2014/COCO_train2014_000000000009.jpg", "coco/train2017/000000000009.jpg", "fetch train2017.zip"),
        ("vg/VG_100K/7.jpg", "vg/VG_100K_2/7.jpg", "both parts of Visual Genome were put into one folder"),
        ("llava/llava_pretrain/images/00000/1.jpg", "00000/1.jpg", "set it as image root"),
    ],
)
def test_a_folder_in_the_wrong_place_is_found(tmp_path: Path, there: str, row: str, advice: str) -> None:
    root = tmp_path / "root"
    (root / there).parent.mkdir(parents=True)
    (root / there).write_bytes(encoded(picture()))
    (root / row).parent.mkdir(parents=True, exist_ok=True)
    report = verify_mix(write_json(tmp_path / "rows.json", [image_row(image=row)]), image_folder=root)
    [finding] = report.findings
    assert advice in (finding.hint or "")
    assert str(root / there) in (finding.hint or "") or "is written" in advice


def test_rows_are_checked_and_what_all_of_them_tell_is_counted(tmp_path: Path) -> None:
    rows = [text_row(1, id=5), text_row(1), text_row(2, id="5"), text_row(3, conversations=turns("Hi", "a </s> b")), 7]
    report = verify_mix(write_json(tmp_path / "rows.json", rows))
    expected = {"row-not-object": 1, "special-token": 1, "row-repeated": 1, "id-mixed": 1, "id-repeated": 1}
    assert found(report) == expected
    assert report.findings[0].level == "error"
    assert examples(report, "id-mixed") == ("all rows: 1 numbers, 3 text",)
    assert examples(report, "row-not-object") == ("row 4: int",)


@pytest.mark.usefixtures("in_this_process")
def test_equal_and_alike_pictures_are_found(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 4)
    images = tmp_path / "images"
    (images / "00002.jpg").write_bytes((images / "00001.jpg").read_bytes())
    picture(3, (300, 240)).save(images / "00003.jpg")
    picture(3, (300, 240)).resize((200, 160)).save(images / "00000.jpg", quality=40)
    path = write_json(tmp_path / "rows.json", [image_row(n) for n in range(4)])
    report = verify_mix(path, image_folder=images, deep=True, perceptual=True)
    assert examples(report, "image-repeated") == ("00002.jpg: the same bytes as 00001.jpg",)
    assert "00003.jpg: looks like 00000.jpg" in examples(report, "image-alike")
    assert "image-alike" not in found(verify_mix(path, image_folder=images, deep=True))


@pytest.mark.usefixtures("in_this_process")
def test_a_second_deep_check_decodes_only_what_changed(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", 10)
    path = write_json(tmp_path / "rows.json", [image_row(n) for n in range(10)])
    first = verify_mix(path, image_folder=images, deep=True)
    assert (first.images, first.cached) == (10, 0)
    (images / "00003.jpg").write_bytes(b"")
    os.utime(images / "00004.jpg", (5, 5))
    second = verify_mix(path, image_folder=images, deep=True)
    assert (second.images, second.cached) == (10, 8)
    assert found(second) == {"image-empty": 1}
    assert found(verify_mix(path, image_folder=images, deep=True)) == {"image-empty": 1}


def test_a_deep_check_that_was_stopped_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_pictures(tmp_path / "images", 12)
    path = write_json(tmp_path / "rows.json", [image_row(n) for n in range(12)])
    monkeypatch.setattr(image_pass, "BATCH_IMAGES", 4)

    def stop(_: str, done: int, __: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    stored = ImageCache.store

    def store_and_stop(cache: ImageCache, entries: Any) -> None:
        stored(cache, entries)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ImageCache, "store", store_and_stop)
        with pytest.raises(KeyboardInterrupt):
            verify_mix(path, image_folder=images, deep=True, workers=1, progress=stop)
    report = verify_mix(path, image_folder=images, deep=True, workers=1)
    assert report.images == 12
    assert report.cached == 4


@pytest.mark.usefixtures("in_this_process")
def test_a_clean_copy_leaves_out_what_is_bad_and_says_why(tmp_path: Path) -> None:
    path = with_picture(tmp_path, b"no image")
    leading = text_row(5, id=5, conversations=[{"from": "gpt", "value": "Hm"}, *turns("Hi", "Hello.")])
    rows = [*json.loads(path.read_text()), leading, image_row(image=None)]
    write_json(path, rows)
    before = path.read_bytes()
    report = verify_mix(path, image_folder=tmp_path / "images", deep=True, fix=True)
    assert path.read_bytes() == before
    assert report.clean_path == tmp_path / "rows.clean.jsonl"
    clean = [json.loads(line) for line in report.clean_path.read_text().splitlines()]
    assert clean == [image_row(0), text_row(5, id="5", conversations=turns("Hi", "Hello."))]
    assert report.dropped_file is not None
    dropped = [json.loads(line) for line in report.dropped_file.read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in dropped] == [
        ("row 1", "image-not-image"),
        ("row 3", "image-null"),
    ]
    again = verify_mix(report.clean_path, image_folder=tmp_path / "images", deep=True)
    assert again.findings == ()
    write_json(path, [image_row(0)])
    verify_mix(path, image_folder=tmp_path / "images")
    assert not (tmp_path / "rows.json.problems.txt").exists()


def test_files_of_one_name_have_clean_copies_of_their_own(tmp_path: Path) -> None:
    places = {tmp_path / "rows.csv": b"question,answer\nA?,B\n,C\n", tmp_path / "rows.json": b"[3]"}
    places[tmp_path / "rows.jsonl"] = b'{"conversations": 7}\n'
    for path, content in places.items():
        path.write_bytes(content)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.csv").write_bytes(b"question,answer\nA?,\n")
    reports = [verify_mix(path, fix=True) for path in (*places, tmp_path / "rows")]
    copies = [report.clean_path for report in reports]
    assert len({*copies, *(report.dropped_file for report in reports)}) == 8
    assert [path.read_text().count("\n") for path in copies if path is not None] == [1, 0, 0, 0]
    assert copies[1:3] == [tmp_path / "rows.json.clean.jsonl", tmp_path / "rows.jsonl.clean.jsonl"]


@pytest.mark.usefixtures("in_this_process")
def test_a_mix_becomes_a_clean_mix_whose_manifest_adds_up(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    build_mix(spec, tmp_path / "mixes" / "small")
    (tmp_path / "pictures" / "00004.jpg").write_bytes(b"")
    (tmp_path / "pictures" / "00007.jpg").unlink()
    report = verify_mix(tmp_path / "mixes" / "small", deep=True, fix=True)
    assert report.bad_rows == 2
    assert report.clean_path == tmp_path / "mixes" / "small-clean"
    clean, old = MixFolder(report.clean_path), MixFolder(tmp_path / "mixes" / "small")
    keys = [clean.key(position) for position in range(len(clean))]
    gone = {"captions#4", "captions#7"}
    assert keys == [key for key in (old.key(position) for position in range(len(old))) if key not in gone]
    assert clean.manifest.sources[0].dropped == {"image-empty": 1, "image-missing": 1}
    assert json.loads(clean.read(0)) == json.loads(old.read(0))
    assert verify_mix(report.clean_path, deep=True).findings == ()
    assert clean.manifest.fingerprint == spec.fingerprint()


def test_a_mix_whose_parts_disagree_is_named(tmp_path: Path) -> None:
    import numpy as np

    build_mix(small_spec(tmp_path), tmp_path / "mix")
    rows = np.load(tmp_path / "mix" / "index" / "row.npy")
    np.save(tmp_path / "mix" / "index" / "row.npy", rows[::-1])
    (tmp_path / "text.jsonl").write_text("[]")
    report = verify_mix(tmp_path / "mix")
    assert examples(report, "mix-broken") == ("index: its order is not the manifest's",)
    assert found(report)["source-changed"] == 1
    assert not report.ok


def test_images_in_tars_are_checked_in_place(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": encoded(picture()), "a.txt": b"one", "b.jpg": b"xx", "b.txt": b"two"})
    report = verify_mix(tmp_path / "0.tar", deep=True, workers=1)
    assert examples(report, "image-not-image") == ("0.tar/b.jpg: b'xx'",)


@pytest.mark.parametrize(
    ("row", "check", "code"),
    [
        (image_row(conversations=[*turns(), *turns("And?", "Blue.")]), StageCheck("plain", "pad", 99), "not-a-caption"),
        (text_row(), StageCheck("plain", "pad", 99), "not-a-caption"),
        (
            image_row(conversations=turns(answer="[0.12, 0.3, 0.5, 1.00]")),
            StageCheck("x", "square", 9),
            "boxes-cropped",
        ),
        (text_row(), StageCheck("x", "pad", 10, lambda row: (30, 0)), "no-trained-token"),
    ],
)
def test_what_a_stage_cannot_train_on_is_an_error(tmp_path: Path, row: Any, check: StageCheck, code: str) -> None:
    write_pictures(tmp_path, 1)
    report = verify_mix(write_json(tmp_path / "rows.json", [row]), stage=check)
    assert found(report) == {code: 1}
    assert report.bad_rows == 1


def test_rows_that_are_cut_are_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [text_row(n) for n in range(3)])
    lengths = iter([5, 50, 60])
    report = verify_mix(path, stage=StageCheck("x", "pad", 10, lambda row: (next(lengths), 3)))
    assert found(report) == {"truncated": 2}
    assert report.ok


def test_a_known_file_with_other_rows_is_noticed(tmp_path: Path) -> None:
    path = write_json(tmp_path / "blip_laion_cc_sbu_558k.json", [text_row(1)])
    report = verify_mix(path)
    [count] = examples(report, "row-count")
    assert "1 row; LLaVA-Pretrain, image-caption pairs" in count
    assert "has 558,128" in count
    assert "lcs558k: other" in examples(report, "licence")[0]


def test_broken_json_is_named_with_its_position(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"id": 1,\n "conversations": }]')
    with pytest.raises(UsageError, match=r"a\.json, line 2, column 19: not JSON"):
        verify_mix(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text(json.dumps(text_row()) + "\n{oops\n")
    assert examples(verify_mix(tmp_path / "a.jsonl"), "json-broken")[0].startswith(
        "row 1: line 2, column 2: not JSON: Expecting property"
    )


def test_data_in_a_read_only_folder_is_checked_and_its_list_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    write_json(tmp_path / "data" / "rows.json", [text_row(1), 7])
    with mounted(tmp_path / "data", tmp_path / "fixed", read_only=True) as fixed:
        report = verify_mix(fixed / "rows.json")
        assert examples(report, "row-not-object") == ("row 1: int",)
        assert report.list_file is not None
        assert report.list_file.parent == tmp_path / "elsewhere"
        assert report.list_file.read_text() == "row-not-object\trow 1\tint\n"
        with pytest.raises(UsageError, match=r"no clean copy of .*rows\.json: .*Read-only file system") as caught:
            verify_mix(fixed / "rows.json", fix=True)
        assert "a folder that can be written to" in (caught.value.hint or "")
        monkeypatch.setattr("tempfile.tempdir", str(fixed))
        assert verify_mix(fixed / "rows.json").list_file is None


def test_a_clean_copy_keeps_pictures_that_lie_in_the_data(tmp_path: Path) -> None:
    content = encoded(picture(3), "PNG")
    rows = [
        {"image": {"bytes": content, "path": None}, "question": "What?", "answer": "red"},
        {"image": {"bytes": content, "path": None}, "question": None, "answer": "red"},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    report = verify_mix(tmp_path / "a.parquet", fix=True)
    assert found(report) == {"question-missing": 1}
    assert report.clean_path is not None
    [row] = json.loads("[" + report.clean_path.read_text().strip() + "]")
    assert row["image"] == ["data:image;base64," + base64.b64encode(content).decode()]
    assert verify_mix(report.clean_path, deep=True, workers=1).ok


def test_the_folder_that_one_stands_in_can_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,text\nnone.png,a dog\n")
    monkeypatch.chdir(tmp_path)
    assert found(verify_mix(Path("."))) == {"image-missing": 1}
