import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.reader import SourceRow
from croc_cli.sources.read.readers import open_source
from croc_cli.sources.read.spec import SourceSpec
from tests.sources.data import encoded, image_row, picture, text_row, turns, write_json, write_jsonl, write_tar

CAPTIONS = [{"file_name": f"{n}.jpg", "text": f"a red thing, number {n}"} for n in range(3)]


def read(path: Path, **changes: Any) -> list[SourceRow]:
    return list(open_source(SourceSpec("it", path, **changes)).rows(with_images=True))


def conversation(row: SourceRow) -> list[tuple[str, str]]:
    return [(turn["from"], turn["value"]) for turn in row.row["conversations"]]


@pytest.mark.parametrize("write", [write_json, write_jsonl])
def test_llava_files_are_read_as_they_are(tmp_path: Path, write: Any) -> None:
    rows = [image_row(1), text_row(2)]
    path = write(tmp_path / "a.json", rows)
    found = read(path)
    assert [row.row for row in found] == rows
    content = path.read_bytes()
    assert [json.loads(content[row.start : row.end]) for row in found] == rows
    assert open_source(SourceSpec("it", path)).image_root == tmp_path


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_a_folder_of_images_with_a_table_of_captions(tmp_path: Path, form: str) -> None:
    file = tmp_path / f"metadata.{form}"
    if form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(CAPTIONS), file)
    elif form == "jsonl":
        write_jsonl(file, CAPTIONS)
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["file_name", "text"], delimiter="," if form == "csv" else "\t")
            writer.writeheader()
            writer.writerows(CAPTIONS)
    found = read(tmp_path)
    assert [row.row["image"] for row in found] == ["0.jpg", "1.jpg", "2.jpg"]
    assert conversation(found[2]) == [
        ("human", "<image>\nDescribe this image."),
        ("gpt", "a red thing, number 2"),
    ]
    assert open_source(SourceSpec("it", tmp_path)).image_root == tmp_path
    assert found[1].row["id"] == "it-1"


def test_columns_are_mapped_as_the_recipe_says(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"q": "What?", "more": "", "a": "  42 ", "picture": "x/1.png"}])
    columns = {"human": ("q", "more"), "gpt": ("a",), "image": "picture", "strip": True}
    [row] = read(tmp_path / "a.jsonl", columns=columns, image_root=tmp_path / "images")
    assert row.row["image"] == "x/1.png"
    assert conversation(row) == [("human", "<image>\nWhat?"), ("gpt", "42")]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\n1,2\n")
    with pytest.raises(DataError, match="no column question") as caught:
        read(tmp_path / "a.csv", columns={"human": ("question",), "gpt": ("a",)})
    assert caught.value.hint == "it has q, a"
    with pytest.raises(DataError, match="columns q, a do not say which is the question") as caught:
        read(tmp_path / "a.csv")
    assert "columns: {human: [question]" in (caught.value.hint or "")


def test_a_hub_dataset_of_parquet_with_images_in_it(tmp_path: Path) -> None:
    content = encoded(picture(3), "PNG")
    rows = [{"images": [{"bytes": content, "path": None}], "texts": [{"user": "Which?", "assistant": "Answer: B"}]}]
    (tmp_path / "data").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data" / "train-00000-of-00001.parquet")
    columns = {"image": "images", "conversations": "texts", "answer_prefix": "Answer: "}
    [row] = read(tmp_path, columns=columns)
    assert row.image == content
    assert conversation(row) == [("human", "<image>\nWhich?"), ("gpt", "B")]
    assert open_source(SourceSpec("it", tmp_path, columns=columns)).embeds_images


def test_several_images_in_a_record_are_a_defect(tmp_path: Path) -> None:
    one = {"bytes": encoded(picture()), "path": None}
    rows = [
        {"images": [one, one], "texts": [{"user": "a", "assistant": "b"}]},
        {"images": [], "texts": [{"user": "a", "assistant": "b"}]},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", columns={"image": "images", "conversations": "texts"})
    assert found[0].defect == ("images-not-one", "2 images")


def test_a_dataset_that_the_datasets_library_saved(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"instruction": "Add", "input": "1 2", "output": "3"}])
    with ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "dataset_info.json").write_text("{}")
    [row] = read(tmp_path)
    assert conversation(row) == [("human", "Add\n1 2"), ("gpt", "3")]


def test_conversations_in_other_words_are_understood(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
        {"messages": ["Hi", "Hello."]},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    found = read(tmp_path / "a.jsonl", columns={"conversations": "messages"})
    assert [conversation(row) for row in found] == [[("human", "Hi"), ("gpt", "Hello.")]] * 2


def test_json_inside_a_column_is_looked_into(tmp_path: Path) -> None:
    truth = json.dumps({"gt_parse": {"text_sequence": "lorem ipsum"}})
    write_jsonl(tmp_path / "a.jsonl", [{"image": "1.jpg", "ground_truth": truth}])
    columns = {"image": "image", "gpt": ("ground_truth.gt_parse.text_sequence",), "prompt": "Read the text."}
    [row] = read(tmp_path / "a.jsonl", columns=columns)
    assert conversation(row) == [("human", "<image>\nRead the text."), ("gpt", "lorem ipsum")]


def test_webdataset_tars_are_read_in_place(tmp_path: Path) -> None:
    images = [encoded(picture(n)) for n in range(3)]
    llava = json.dumps({"conversations": turns("Which?\n<image>", "This.")}).encode()
    write_tar(tmp_path / "00000.tar", {"000.jpg": images[0], "000.txt": b"a circle\n", "000.json": b'{"url": "http"}'})
    write_tar(tmp_path / "00001.tar", {"a/1.jpg": images[1], "a/1.json": llava, "b.jpg": images[2]})
    found = read(tmp_path)
    assert [row.row["image"] for row in found] == ["00000.tar/000.jpg", "00001.tar/a/1.jpg", "00001.tar/b.jpg"]
    assert conversation(found[0])[1] == ("gpt", "a circle")
    assert conversation(found[1]) == [("human", "Which?\n<image>"), ("gpt", "This.")]
    for row, image in zip(found, images, strict=True):
        offset, length = row.image_range or (0, 0)
        tar = tmp_path / row.row["image"].partition("/")[0]
        assert tar.read_bytes()[offset : offset + length] == image


def test_a_tar_that_ends_too_early_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"000.jpg": b"x" * 3000, "000.txt": b"y"})
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.tar: no tar that can be read") as caught:
        read(tmp_path / "a.tar")
    assert "download it again" in (caught.value.hint or "")


def test_what_holds_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data that is known") as caught:
        read(tmp_path)
    assert "metadata.csv" in (caught.value.hint or "")
    with pytest.raises(DataError, match=r"source it: .*none does not exist"):
        read(tmp_path / "none")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        read(tmp_path / "a.parquet")
