import csv
from pathlib import Path
from typing import Any

import pytest

from croc_cli.sources.read.csv_rows import csv_columns, csv_rows
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.readers import open_source
from croc_cli.sources.read.rows import BadCell
from croc_cli.sources.read.spec import SourceSpec


def rows(file: Path) -> list[Any]:
    return [row.defect if isinstance(row, BadCell) else row for row in csv_rows(file)]


@pytest.mark.parametrize("name", ["QA.CSV", "qa.csv", "QA.TSV", "qa.tsv"])
def test_cells_come_back_as_a_writer_wrote_them(tmp_path: Path, name: str) -> None:
    cells = ["plain", 'he said "no"', "two\nlines", "a, comma", "a\ttab", ""]
    with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream, delimiter="\t" if name.lower().endswith("tsv") else ",")
        writer.writerows([["question", "answer"], *([cell, "é"] for cell in cells)])
    assert csv_columns(tmp_path / name) == ["question", "answer"]
    assert rows(tmp_path / name) == [{"question": cell or None, "answer": "é"} for cell in cells]


def test_stray_quotes_in_a_tsv_are_letters(tmp_path: Path) -> None:
    lines = [f"question {number}?\tanswer {number}" for number in range(200)]
    lines[50], lines[120], lines[150] = '"only opened?\tx', 'and closed" later\ty', '"quoted ""so"""\tz'
    (tmp_path / "a.tsv").write_text("question\tanswer\n" + "\n".join(lines) + "\n")
    found = rows(tmp_path / "a.tsv")
    assert len(found) == 200
    assert [found[number]["question"] for number in (50, 120, 150)] == [
        '"only opened?',
        'and closed" later',
        'quoted "so"',
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a,b\n1,2\n"big" dog,2\n', r"a\.csv, line 3: cannot be read: ',' expected after '\"'"),
        (b'a,b\n1,2\n"no end,2\n3,4\n', r"a\.csv, line 3: cannot be read: unexpected end of data"),
        (
            b'a,b\n1,"open\n' + b"3,4\n" * 5 + b'"\n',
            r"a\.csv, line 2: a quote opens a cell that ends only at line 8",
        ),
        (b"a,b\n1,2\ngr\xfcn,2\n", r"a\.csv, line 3: not UTF-8 text \(byte 0xFC"),
        ("a,b\n1,2\n".encode("utf-16"), r"a\.csv, line 1: UTF-16 text"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(csv_rows(tmp_path / "a.csv"))
    assert caught.value.hint


def test_a_row_with_more_or_fewer_cells_than_columns_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file_name,text\n1.png,a dog, running\n\n2.png\n3.png,a cat\n")
    assert rows(tmp_path / "a.csv") == [
        ("cells-not-columns", "line 2: 3 cells, 2 columns"),
        ("cells-not-columns", "line 4: 1 cells, 2 columns"),
        {"file_name": "3.png", "text": "a cat"},
    ]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,file_name,text\n1,2,3\n")
    with pytest.raises(DataError, match=r"a\.csv, line 1: two columns are named 'text'"):
        csv_columns(tmp_path / "a.csv")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_header_of_a_joined_table_is_no_row(tmp_path: Path, mark: str) -> None:
    (tmp_path / "a.csv").write_text(f"question,answer\n1,2\n{mark}question,answer\n3,4\n", encoding="utf-8")
    good = [{"question": "1", "answer": "2"}, {"question": "3", "answer": "4"}]
    assert rows(tmp_path / "a.csv") == [good[0], ("header-repeated", "line 3"), good[1]]


def test_line_ends_of_carriage_returns_alone_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"question,answer\r1,2\r")
    with pytest.raises(DataError, match="line 1: a carriage return without a line feed") as caught:
        rows(tmp_path / "a.csv")
    assert r"`tr '\r' '\n' < " in (caught.value.hint or "")


def test_a_table_with_semicolons_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question;answer\n1;2\n")
    with pytest.raises(DataError, match=r"a\.csv: its cells are separated by semicolons"):
        open_source(SourceSpec("it", tmp_path / "a.csv"))
