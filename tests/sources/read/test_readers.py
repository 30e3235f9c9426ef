import base64
import csv
import io
import json
import os
import tarfile
import zlib
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

DAMAGED_BATCH = (
    b"c-"
    b"s5_|Ns90Mg|4}1`yz4;9+26U}fL{vVee*1;}Rr@;HDb3zTGFU<TqIAdZ3ZHGpOS74wJy*)mWuppgt9J{u4x<`tKx76Ije>OvrDSw"
    b"QwlK-Drp>CBSUToBs@sHO&@j#U83Oa`!97#IpmQ;SP7^YcLb0-"
    b"(AT5VgD@^Aw<JnSeL|>IPPj*|~}7sX%%GQ0)yQv(ep9kXVudVxIu25diAu0Q!I(90~%^FoL)p*-"
    b"aqxlPXJ6i@{<nVDbMTcQHcj2LT=iF=)v0fK6jyW&zs`Qo{fZdkLTn3pDI`pmD;?fB^hRY(}K;K;{de(F#yH9!fW$sqa8jKLg26Ag"
    b"};U{R%YoJD@Zhls>?K3J##Dzkp`m4K(=|P<kJd8Ei=50Mkb<pMiipE0UUcB-"
    b"|O`=g!L|1&SJ8PY;(MNYK7wkl+BNG!es$WFV#H>EaktF(=tZQT@1s_W_sS%kH`oTNAD{1#-"
    b"K=7%SKq<UTN(R88<s0NLT`>gTe~DWM4-fDA|u0bv8Zg1mGzhr#4PdcrdjOYEVs%ml^EXdaG-2IxMV9-*2)Xly(rV}V2fzhs;x"
)
"""An arrow stream of three rows, a struct of which is longer than its children."""
CAPTIONS = [{"file_name": f"{n}.jpg", "text": f"a red thing, number {n}"} for n in range(3)]


def read(path: Path, **changes: Any) -> list[SourceRow]:
    return list(open_source(SourceSpec("it", path, **changes)).rows())


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
    assert row.contents == (content,)
    assert conversation(row) == [("human", "<image>\nWhich?"), ("gpt", "B")]


def test_several_images_in_a_record_are_shown_in_order(tmp_path: Path) -> None:
    one, two = {"bytes": encoded(picture(1)), "path": None}, {"bytes": encoded(picture(2)), "path": "two.jpg"}
    rows = [
        {"images": [one, two], "texts": [{"user": "a", "assistant": "b"}]},
        {"images": [], "texts": [{"user": "a", "assistant": "b"}]},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", columns={"image": "images", "conversations": "texts"})
    assert found[0].row["image"] == ["embedded", "two.jpg"]
    assert found[0].contents == (one["bytes"], two["bytes"])
    assert conversation(found[0]) == [("human", "<image>\n<image>\na"), ("gpt", "b")]
    assert conversation(found[1]) == [("human", "a"), ("gpt", "b")]


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
    with pytest.raises(DataError, match=r"a\.tar: cannot be read: unexpected end of data") as caught:
        read(tmp_path / "a.tar")
    assert "download it again" in (caught.value.hint or "")


def _tars() -> tuple[bytes, bytes]:
    """Two tars of two samples each; a sample takes four blocks."""
    made = []
    for number in range(2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in ("0.jpg", "0.txt", "1.jpg", "1.txt"):
                member = tarfile.TarInfo(f"{number}{name}")
                member.size = 1
                tar.addfile(member, io.BytesIO(b"x"))
        made.append(buffer.getvalue())
    return made[0], made[1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda one, two: one + two, "more follows its end"),
        (lambda one, two: one[:2048], "ends without the mark of a tar's end"),
        (lambda one, two: one[:2048] + b"\xff" * 99 + one[2147:], "a damaged header"),
        (lambda one, two: one[:2048] + bytes(1024) + one[3072:], "more follows its end"),
    ],
)
def test_a_tar_that_loses_samples_without_a_word_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(damage(*_tars()))
    with pytest.raises(DataError, match=rf"a\.tar: cannot be read: .*{message}"):
        read(tmp_path / "a.tar")


def test_a_damaged_arrow_batch_is_named_before_a_row_is_taken_out_of_it(tmp_path: Path) -> None:
    """Taking a row out of it makes Arrow end the process."""
    (tmp_path / "a.arrow").write_bytes(zlib.decompress(base64.b85decode(DAMAGED_BATCH)))
    with pytest.raises(DataError, match=r"a\.arrow: cannot be read: .*child array"):
        read(tmp_path / "a.arrow")


def test_an_arrow_stream_that_was_joined_or_cut_is_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"question": "Which?", "answer": "This."}])
    with ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    whole = (tmp_path / "a.arrow").read_bytes()
    assert len(read(tmp_path / "a.arrow")) == 1
    for content, message in ((whole + whole, "more follows its end"), (whole[:-8], "without the mark")):
        (tmp_path / "b.arrow").write_bytes(content)
        with pytest.raises(DataError, match=rf"b\.arrow, after row 1: cannot be read: .*{message}"):
            read(tmp_path / "b.arrow")


@pytest.mark.parametrize("suffix", ["avif", "jp2", "ppm", "pgm"])
def test_every_form_of_picture_that_croc_opens_is_one_in_a_tar(tmp_path: Path, suffix: str) -> None:
    write_tar(tmp_path / "a.tar", {f"0.{suffix}": b"x", "0.txt": b"y"})
    assert [row.row["image"] for row in read(tmp_path / "a.tar")] == [f"a.tar/0.{suffix}"]


def test_what_holds_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data that is known") as caught:
        read(tmp_path)
    assert "metadata.csv" in (caught.value.hint or "")
    with pytest.raises(DataError, match=r"source it: .*none does not exist"):
        read(tmp_path / "none")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["QA.CSV", "QA.TSV", "QA.JSONL", "QA.PARQUET"])
def test_endings_in_upper_case_are_the_same_endings(tmp_path: Path, name: str) -> None:
    rows = [{"question": "What?", "answer": "red"}]
    if name.endswith("PARQUET"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    elif name.endswith("JSONL"):
        write_jsonl(tmp_path / name, rows)
    else:
        separator = "," if name.endswith("CSV") else "\t"
        (tmp_path / name).write_text(f"question{separator}answer\nWhat?{separator}red\n")
    for path in (tmp_path / name, tmp_path) if not name.endswith("JSONL") else (tmp_path / name,):
        assert [conversation(row) for row in read(path)] == [[("human", "What?"), ("gpt", "red")]]


def test_tars_in_upper_case_are_tars(tmp_path: Path) -> None:
    write_tar(tmp_path / "A.TAR", {"000.JPG": encoded(picture()), "000.TXT": b"a circle"})
    for path in (tmp_path, tmp_path / "A.TAR"):
        [row] = read(path)
        assert row.row["image"] == "A.TAR/000.jpg"


def samples(tmp_path: Path, members: dict[str, bytes]) -> list[tuple[Any, ...]]:
    """Return what becomes of a tar: (image, answer) of a sample, or the code of its defect."""
    write_tar(tmp_path / "0.tar", members)
    return [
        row.defect[:1] if row.defect else (row.row.get("image"), row.row["conversations"][-1]["value"])
        for row in read(tmp_path / "0.tar")
    ]


def test_names_with_dots_are_samples_of_their_own(tmp_path: Path) -> None:
    image = encoded(picture())
    members = {}
    for name in ("000", "001", "cat.v2", "cat.v3", "dog.final"):
        members |= {f"{name}.jpg": image, f"{name}.txt": name.encode()}
    expected = [(f"0.tar/{name}.jpg", name) for name in ("000", "001", "cat.v2", "cat.v3", "dog.final")]
    assert samples(tmp_path, members) == expected


def test_further_parts_of_a_whole_sample_are_left_alone(tmp_path: Path) -> None:
    image = encoded(picture())
    assert samples(tmp_path, {"a.jpg": image, "a.seg.png": image, "a.txt": b"one", "a.cls": b"3"}) == [
        ("0.tar/a.jpg", "one")
    ]


def test_what_a_sample_lacks_is_counted(tmp_path: Path) -> None:
    image = encoded(picture())
    members = {
        "0.jfif": image,
        "0.txt": b"one",
        "1.txt": b"no picture",
        "2.svg": image,
        "2.txt": b"a picture of an unknown kind",
        "3.jpg": image,
        "4.input.jpg": image,
        "4.outputs.txt": b"apart",
        "5.jpg": image,
        "5.txt": b"caf\xe9",
        "6.jpg": image,
        "6.png": image,
        "6.txt": b"two",
        "7.json": json.dumps({"image": "7.jpg", "conversations": turns("What?", "That.")}).encode(),
        "8.jpg": image,
        "8.json": b'{"caption": "a"} {"caption": "b"}',
        "9.json": json.dumps({"conversations": turns("Hi", "Hello.")}).encode(),
    }
    assert samples(tmp_path, members) == [
        ("0.tar/0.jfif", "one"),
        ("image-null",),
        ("image-null",),
        ("0.tar/3.jpg", ""),
        ("0.tar/4.input.jpg", ""),
        ("image-null",),
        ("text-not-utf8",),
        ("images-not-one",),
        ("image-null",),
        ("json-broken",),
        (None, "Hello."),
    ]


def test_messages_in_tars_are_read(tmp_path: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    messages = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "red"}]}
    asked = {"question": "What?", "answer": "red", "caption": "not this"}
    write_tar(
        tmp_path / "0.tar",
        {
            "0.jpg": encoded(picture()),
            "0.json": json.dumps(messages).encode(),
            "1.jpg": encoded(picture()),
            "1.json": json.dumps(asked).encode(),
        },
    )
    assert [conversation(row) for row in read(tmp_path)] == [[("human", "<image>\nWhat?"), ("gpt", "red")]] * 2


def test_a_bad_cell_spoils_its_row_and_no_other(tmp_path: Path) -> None:
    good = [{"question": f"q{number}?", "answer": "a", "image": f"{number}.png"} for number in range(3)]
    table = pyarrow.Table.from_pylist(good)
    broken = pyarrow.array([b"q0?", b"\xff\xfe", b"q2?"]).view(pyarrow.string())
    table = table.set_column(0, "question", broken)
    parquet.write_table(table, tmp_path / "train-0.parquet")
    parquet.write_table(table, tmp_path / "train-1.parquet")
    found = read(tmp_path)
    assert [row.defect and row.defect[0] for row in found] == [None, "cell-unreadable", None] * 2
    assert found[4].defect == ("cell-unreadable", "train-1.parquet, row 1: question: not UTF-8 text")


def test_an_arrow_file_with_an_index_is_read_as_a_stream_is(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"instruction": "Add", "input": "1 2", "output": "3"}])
    with ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert [conversation(row) for row in read(tmp_path / "a.arrow")] == [[("human", "Add\n1 2"), ("gpt", "3")]]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"pipe\.json is neither a file nor a folder"):
        read(tmp_path / "pipe.json")
