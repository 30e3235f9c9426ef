import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from croc_cli.errors import UsageError
from croc_cli.sources.fetch.url_table import read_url_table
from croc_cli.sources.read.content import WrongContentError

ROWS = [{"image": "00453/004539375.jpg", "url": "http://h/1"}, {"image": "00453/000000002.jpg", "url": "http://h/2,3"}]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def tables(folder: Path) -> list[Path]:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "t.parquet")
    return [
        write(folder / "t.json", json.dumps(ROWS)),
        write(folder / "t.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n"),
        write(folder / "t.csv", 'image,url\n00453/004539375.jpg,http://h/1\n00453/000000002.jpg,"http://h/2,3"\n'),
        write(folder / "t.tsv", "image\turl\n00453/004539375.jpg\thttp://h/1\n00453/000000002.jpg\thttp://h/2,3\n"),
        folder / "t.parquet",
    ]


def test_every_form_gives_the_same_rows_and_padded_keys_stay_text(tmp_path: Path) -> None:
    for path in tables(tmp_path):
        found = [(row.key, row.url) for row in read_url_table(path, url_column=None, key_column="image")]
        assert found == [("00453/004539375.jpg", "http://h/1"), ("00453/000000002.jpg", "http://h/2,3")], path


def test_an_object_of_objects_is_keyed_by_its_own_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "dataset.json", json.dumps({"0123456789": {"imageURL": "http://h/x.gif", "title": "T"}}))
    [row] = read_url_table(path, url_column=None, key_column="@key")
    assert (row.key, row.url, row.row["title"]) == ("0123456789.jpg", "http://h/x.gif", "T")


def test_rows_without_a_key_column_are_numbered_and_rows_without_url_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", json.dumps([{"link": "http://h/1"}, {"link": None}, {"link": "http://h/3"}]))
    keys = [row.key for row in read_url_table(path, url_column=None, key_column=None)]
    assert keys == ["00000/000000000.jpg", "00000/000000002.jpg"]


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    for name, row in zip(("b", "a"), ROWS, strict=True):
        parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / f"{name}.parquet")
    assert [row.url for row in read_url_table(tmp_path, url_column="url", key_column="image")] == [
        "http://h/2,3",
        "http://h/1",
    ]


@pytest.mark.parametrize("key", ["../x.jpg", "/x.jpg", "a/../../x.jpg", "a\\x.jpg"])
def test_a_key_that_leads_outside_is_refused(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "t.json", json.dumps([{"image": key, "url": "http://h/1"}]))
    with pytest.raises(UsageError, match="leads outside the image folder"):
        list(read_url_table(path, url_column=None, key_column="image"))


def test_what_is_wrong_with_a_table_is_named(tmp_path: Path) -> None:
    def read(path: Path, **columns: str | None) -> None:
        list(read_url_table(path, **{"url_column": None, "key_column": None, **columns}))  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "none.json")
    with pytest.raises(UsageError, match="has no column of URLs, only image, adress"):
        read(write(tmp_path / "a.json", '[{"image": "1", "adress": "http://h"}]'))
    with pytest.raises(UsageError, match="no column 'urls'") as raised:
        read(write(tmp_path / "b.json", '[{"url": "http://h"}]'), url_column="urls")
    assert raised.value.hint == "did you mean url?"
    with pytest.raises(UsageError, match="row 0: no column 'name'"):
        read(tmp_path / "b.json", key_column="name")
    for content, message in (
        ('[{"url": ', "c.json, line 1, column 10: not JSON: Expecting"),
        ('[{"url": "http://h"}]\n[]', "c.json, line 2, column 1: not JSON: Extra data"),
        ('[{"url": "http://h"}, 3]', "c.json, row 1: 3 is not an object"),
    ):
        with pytest.raises(UsageError, match=message):
            read(write(tmp_path / "c.json", content))
    with pytest.raises(UsageError, match="f.csv, row 0: line 2: 3 cells, 2 columns"):
        read(write(tmp_path / "f.csv", "url,name\nhttp://h,a,b\n"))
    (tmp_path / "g.csv").write_bytes("url,name\nhttp://h,é\n".encode("cp1252"))
    with pytest.raises(UsageError, match="g.csv, line 2: not UTF-8 text"):
        read(tmp_path / "g.csv")
    with pytest.raises(UsageError, match="h.parquet: cannot be read"):
        read(write(tmp_path / "h.parquet", "PAR1 broken"))
    with pytest.raises(UsageError, match="d.txt is not a table of URLs"):
        read(write(tmp_path / "d.txt", "http://h"))
    with pytest.raises(WrongContentError, match="gave a web page in place of e.json"):
        read(write(tmp_path / "e.json", "<!doctype html>"))
