import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from croc_cli.errors import RunError
from croc_cli.sources.mix import mix as module
from croc_cli.sources.mix.mix import build_mix, is_current
from croc_cli.sources.read.index import ROWS_NAME, MixFolder
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.manifest import read_manifest
from croc_cli.sources.read.spec import MixSpec, RowFilter, SourceSpec
from tests.sources.data import encoded, image_row, picture, small_spec, text_row, turns, write_json, write_jsonl


def keys(folder: Path) -> list[str]:
    mix = MixFolder(folder)
    return [mix.key(position) for position in range(len(mix))]


def rows(folder: Path) -> list[Any]:
    mix = MixFolder(folder)
    return [json.loads(mix.read(position)) for position in range(len(mix))]


def one_source(root: Path, data: list[Any], **changes: Any) -> MixSpec:
    return MixSpec("one", (SourceSpec("it", write_jsonl(root / "it.jsonl", data), **changes),), root)


def test_a_mix_holds_every_row_of_its_sources_once(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    manifest = build_mix(spec, tmp_path / "mixes" / "small")
    found = keys(tmp_path / "mixes" / "small")
    assert sorted(found) == sorted([f"captions#{n}" for n in range(10)] + [f"text#{n}" for n in range(20)])
    for key, row in zip(found, rows(tmp_path / "mixes" / "small"), strict=True):
        source, _, number = key.partition("#")
        assert row == (image_row(int(number)) if source == "captions" else text_row(int(number)))
    assert (manifest.rows, manifest.image_rows, manifest.text_rows) == (30, 10, 20)
    assert manifest == read_manifest(tmp_path / "mixes" / "small")
    index = MixFolder(tmp_path / "mixes" / "small").index
    assert [key.startswith("captions") for key in found] == [bool(images) for images in index.images]


def test_the_manifest_says_where_every_row_came_from(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    build_mix(spec, tmp_path / "mixes" / "small")
    manifest = json.loads((tmp_path / "mixes" / "small" / "manifest.json").read_text())
    captions, text = manifest["sources"]
    assert captions["sha256"] == hashlib.sha256((tmp_path / "captions.json").read_bytes()).hexdigest()
    assert (captions["path"], captions["image_root"], manifest["data_root"]) == ("captions.json", "pictures", "../..")
    assert (text["rows_in"], text["rows_out"], text["dropped"]) == (20, 20, {})
    assert manifest["bytes"] == (tmp_path / "mixes" / "small" / ROWS_NAME).stat().st_size


def test_one_more_source_moves_no_other_row(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    build_mix(replace(spec, sources=spec.sources[:1]), tmp_path / "one")
    build_mix(replace(spec, sources=spec.sources[::-1]), tmp_path / "two")
    assert [key for key in keys(tmp_path / "two") if key.startswith("captions")] == keys(tmp_path / "one")


def test_the_order_is_the_same_wherever_the_files_lie_and_follows_the_seed(tmp_path: Path) -> None:
    build_mix(small_spec(tmp_path / "here"), tmp_path / "a")
    build_mix(small_spec(tmp_path / "there"), tmp_path / "b")
    build_mix(small_spec(tmp_path / "there", seed=1), tmp_path / "c")
    assert keys(tmp_path / "a") == keys(tmp_path / "b") != keys(tmp_path / "c")
    here, there, other = (read_manifest(tmp_path / name) for name in "abc")
    assert (here.order_sha256, here.fingerprint) == (there.order_sha256, there.fingerprint)
    assert here.order_sha256 != other.order_sha256
    # Written out: any machine, any version must give this order.
    assert keys(tmp_path / "a")[:6] == ["text#16", "text#19", "captions#9", "captions#8", "text#17", "text#7"]


def test_a_count_is_exact_and_a_smaller_one_is_part_of_a_larger(tmp_path: Path) -> None:
    data = [text_row(number) for number in range(100)]
    drawn = {}
    for count in (10, 40):
        build_mix(one_source(tmp_path, data, count=count), tmp_path / str(count))
        drawn[count] = set(keys(tmp_path / str(count)))
    assert len(drawn[10]) == 10
    assert len(drawn[40]) == 40
    assert drawn[10] < drawn[40]
    build_mix(one_source(tmp_path, data, count=10, seed=1), tmp_path / "seed")
    assert set(keys(tmp_path / "seed")) != drawn[10]
    manifest = build_mix(one_source(tmp_path, data, fraction=0.25), tmp_path / "share")
    assert manifest.rows == 25
    assert manifest.sources[0].dropped == {"not drawn": 75}


def test_a_source_with_too_few_rows_is_an_error_that_says_why(tmp_path: Path) -> None:
    data = [text_row(0), image_row(1), text_row(2)]
    spec = one_source(tmp_path, data, count=3, filter=RowFilter(modality="text"))
    with pytest.raises(DataError, match=r"source it: count is 3, but only 2 of 3 rows \(1 filtered\)") as caught:
        build_mix(spec, tmp_path / "mix")
    assert "set its count to 2 at most" in (caught.value.hint or "")
    assert not (tmp_path / "mix").exists()
    assert list(tmp_path.glob(".mix*")) == []


def test_defective_rows_are_left_out_and_counted_up_to_a_limit(tmp_path: Path) -> None:
    bad = [image_row(image=None), {"conversations": []}]
    data = [*(text_row(number) for number in range(98)), *bad]
    spec = one_source(tmp_path, data)
    with pytest.raises(DataError) as caught:
        build_mix(spec, tmp_path / "mix")
    message = caught.value.message
    assert "source it: 2 of 100 rows (2.0%) are defective, more than its max_dropped = 0.01" in message
    assert "1 × an image that is null or empty (row 98: nothing)" in message
    allowed = replace(spec, sources=(replace(spec.sources[0], max_dropped=0.02),))
    manifest = build_mix(allowed, tmp_path / "mix")
    assert manifest.sources[0].dropped == {"conversations-missing": 1, "image-null": 1}
    assert any("left out 1 × an image that is null" in note for note in manifest.notes)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"modality": "image"}, {1, 2}),
        ({"modality": "text"}, {0, 3, 4}),
        ({"image_prefixes": ("coco/",)}, {1}),
        ({"not_image_prefixes": ("sam/",)}, {0, 1, 3, 4}),
        ({"human_matches": "^Add"}, {3}),
        ({"not_human_matches": "Add"}, {0, 1, 2, 4}),
        ({"max_turns": 2}, {0, 1, 2, 3}),
        ({"min_answer_chars": 20}, {1, 2}),
        ({"max_answer_chars": 3}, {0, 3}),
    ],
)
def test_filters_choose_rows(tmp_path: Path, settings: dict[str, Any], expected: set[int]) -> None:
    data = [
        text_row(0),
        image_row(1, image="coco/1.jpg"),
        image_row(2, image="sam/2.jpg"),
        text_row(3, conversations=turns("Add them", "yes")),
        text_row(4, conversations=[*turns("one", "two"), *turns("three", "four")]),
    ]
    build_mix(one_source(tmp_path, data, filter=RowFilter(**settings)), tmp_path / "mix")
    assert {int(key.partition("#")[2]) for key in keys(tmp_path / "mix")} == expected


def test_repeated_rows_are_counted_or_left_out(tmp_path: Path) -> None:
    data = [text_row(1), text_row(1, id="other"), image_row(1), text_row(2)]
    spec = one_source(tmp_path, data)
    assert build_mix(spec, tmp_path / "with").duplicates == 1
    manifest = build_mix(replace(spec, drop_duplicates=True), tmp_path / "without")
    assert manifest.duplicates == 0
    assert manifest.sources[0].dropped == {"duplicate": 1}
    assert sorted(keys(tmp_path / "without")) == ["it#0", "it#2", "it#3"]


def test_rows_that_span_lines_are_written_on_one(tmp_path: Path) -> None:
    data = [image_row(number, id="é") for number in range(5)]
    write_json(tmp_path / "it.json", data, indent=2)
    build_mix(MixSpec("one", (SourceSpec("it", tmp_path / "it.json"),), tmp_path), tmp_path / "mix")
    assert len((tmp_path / "mix" / ROWS_NAME).read_text().splitlines()) == 5
    assert sorted(rows(tmp_path / "mix"), key=str) == sorted(data, key=str)


def test_images_of_a_table_go_into_a_tar_of_the_mix(tmp_path: Path) -> None:
    images = [encoded(picture(number), "PNG" if number % 2 else "JPEG") for number in range(6)]
    table = [{"image": {"bytes": image, "path": None}, "caption": f"number {n}"} for n, image in enumerate(images)]
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "a.parquet")
    spec = MixSpec("one", (SourceSpec("it", tmp_path / "a.parquet", count=4),), tmp_path)
    build_mix(spec, tmp_path / "mix")
    mix = MixFolder(tmp_path / "mix")
    for position in range(len(mix)):
        row = json.loads(mix.read(position))
        number = int(mix.index.row[position])
        assert row["image"] == f"images/it-00000.tar/{number:09d}.{'png' if number % 2 else 'jpg'}"
        offset, length = row["image_range"]
        tar = mix.image_roots[0] / "images" / "it-00000.tar"
        assert tar.read_bytes()[offset : offset + length] == images[number]


def test_a_mix_is_current_until_its_files_or_its_recipe_change(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    assert not is_current(spec, tmp_path / "mix")
    build_mix(spec, tmp_path / "mix")
    assert is_current(spec, tmp_path / "mix")
    assert not is_current(replace(spec, seed=5), tmp_path / "mix")
    os.utime(tmp_path / "text.jsonl", (1, 1))
    assert not is_current(spec, tmp_path / "mix")


def test_an_old_mix_stays_until_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec(tmp_path)
    build_mix(spec, tmp_path / "mix")
    before = keys(tmp_path / "mix")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_index", full)
        with pytest.raises(RunError, match="mix .*: No space left on device") as caught:
            build_mix(replace(spec, seed=9), tmp_path / "mix")
    assert "free some disk" in (caught.value.hint or "")
    assert keys(tmp_path / "mix") == before
    build_mix(replace(spec, seed=9), tmp_path / "mix")
    assert keys(tmp_path / "mix") != before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_source_with_other_rows_than_are_known_of_it_is_noted(tmp_path: Path) -> None:
    manifest = build_mix(one_source(tmp_path, [text_row(1)], expected_rows=558_128), tmp_path / "mix")
    assert manifest.notes == ("source it has 1 rows; 558,128 are known of it, so it may be another file or revision",)


def change_manifest(mix: Path, **changes: Any) -> None:
    file = mix / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda mix: (mix / ROWS_NAME).unlink(), "rows.jsonl is missing"),
        (lambda mix: (mix / ROWS_NAME).open("ab").write(b"x"), "the manifest says"),
        (lambda mix: (mix / "index" / "offset.npy").unlink(), "offset.npy: cannot be read"),
        (lambda mix: (mix / "index" / "offset.npy").write_bytes(b"\x93NUMPY" + b"\xff" * 200), "offset.npy: cannot be"),
        (lambda mix: np.save(mix / "index" / "row.npy", np.arange(30.0)), "row.npy: cannot be read: it holds float64"),
        (lambda mix: np.save(mix / "index" / "row.npy", np.arange(7, dtype="<u4")), "arrays differ in length"),
        (
            lambda mix: np.save(mix / "index" / "source.npy", np.full(30, 9, "<u2")),
            "sources that the manifest",
        ),
        (lambda mix: np.save(mix / "index" / "offset.npy", np.full(30, 9999999, "<u8")), "rows behind the end of"),
        (lambda mix: (mix / "manifest.json").unlink(), "is not a mix: it has no manifest.json"),
        (lambda mix: (mix / "manifest.json").write_text('{"form": 99}'), "form 99 of the mix"),
        (
            lambda mix: change_manifest(mix, rows="many"),
            r"incomplete or damaged: rows: .*valid integer",
        ),
        (lambda mix: change_manifest(mix, sources=[3]), r"manifest\.json is incomplete or damaged: sources\.0: "),
        (lambda mix: (mix / "manifest.json").write_text('{"form": 1}{}'), "manifest.json, line 1, column 12: not JSON"),
        (lambda mix: (mix / "manifest.json").write_text('{"form": 1}'), "is incomplete"),
    ],
)
def test_a_damaged_mix_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    build_mix(small_spec(tmp_path), tmp_path / "mix")
    damage(tmp_path / "mix")
    with pytest.raises((DataError, Exception), match=message) as caught:
        MixFolder(tmp_path / "mix")
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_a_source_that_is_not_there_leaves_no_folder_behind(tmp_path: Path) -> None:
    spec = MixSpec("it", (SourceSpec("gone", tmp_path / "gone.json"),), tmp_path)
    with pytest.raises(DataError, match=r"gone\.json does not exist"):
        build_mix(spec, tmp_path / "data" / "mixes" / "it")
    assert not (tmp_path / "data").exists()
