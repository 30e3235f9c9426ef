import json
from pathlib import Path
from typing import Any

import pytest

from croc_cli.reading import RepeatedKeyError
from croc_cli.sources.read import json_rows as module
from croc_cli.sources.read.json_rows import DataError, json_rows

ROWS: list[Any] = [{"a": 1}, {"text": "harbour – 港 🙂", "list": [1, [2]]}, "plain", {"b": {"c": 'quote " and \\ [}'}}]


@pytest.fixture(params=[4 << 20, 8, 1])
def any_block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that rows and letters lie across several."""
    monkeypatch.setattr(module, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("form", ["compact", "indented", "lines", "bom list", "bom lines"])
def test_rows_come_with_the_bytes_that_they_take(tmp_path: Path, form: str, ascii_only: bool) -> None:
    path = tmp_path / "rows.json"
    if "lines" in form:
        text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n\n" for row in ROWS)
    else:
        text = json.dumps(ROWS, ensure_ascii=ascii_only, indent=2 if form == "indented" else None)
    path.write_text(text, encoding="utf-8-sig" if "bom" in form else "utf-8")
    found = list(json_rows(path))
    assert [row.value for row in found] == ROWS
    assert [row.number for row in found] == [0, 1, 2, 3]
    content = path.read_bytes()
    assert [json.loads(content[row.start : row.end]) for row in found] == ROWS
    assert [row.line for row in found] == ([1, 3, 5, 7] if "lines" in form else [0] * 4)


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1},\n {"b": oops}]', "line 2, column 8: not JSON: expected a value"),
        ('[{"a": 1},\n {"b": 2}', "line 2, column 10: not JSON: the file ends too early"),
        ('[{"a": 1},\n {"b": "no end', "line 2, column 8: not JSON: Unterminated string"),
        ('[{"a": 1}\n {"b": 2}]', "line 2, column 2: not JSON: expected a comma or the list's end"),
        ("[1, 2,]", "line 1, column 7: not JSON: expected a value"),
        ('[{"a": 1}]\n[{"b": 2}]', "line 2, column 1: not JSON: more text after the list's end"),
        ('[{"a": 1}],\n{"b": 2}]', "line 1, column 11: not JSON: more text after the list's end"),
        ("[]\n\n [1]", "line 3, column 2: not JSON: more text after the list's end"),
        ('[{"a": 1}]\n=======\n[1]', "line 2, column 1: not JSON: marks of a merge conflict"),
        ('[{"a": 1}]\n<<<<<<< HEAD', "line 2, column 1: not JSON: marks of a merge conflict"),
        ('[{"a": 1}]\0', "line 1, column 11: not JSON: more text after the list's end"),
        ("[1, " + "9" * 5000 + "]", "line 1, column 5: not JSON: Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_list_is_named_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        list(json_rows(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('[{"a": 1}][{"b": 2}]', "`jq -s 'flatten(1)' "),
        ('[{"a": 1}]\n{"b": 2}', "`jq -s 'flatten(1)' "),
        ('[{"a": 1}],\n{"b": 2}]', "stands before its closing bracket"),
    ],
)
def test_what_follows_a_list_has_a_hint_that_mends_it(tmp_path: Path, content: str, hint: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError) as caught:
        list(json_rows(tmp_path / "a.json"))
    assert hint in (caught.value.hint or "")


def test_a_broken_line_does_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": \n{"a": 2} x\n\xff\n  {"a": 3}\n')
    found = list(json_rows(tmp_path / "a.jsonl"))
    assert [row.value for row in found if not isinstance(row.value, ValueError)] == [{"a": 1}, {"a": 3}]
    assert [row.line for row in found if isinstance(row.value, ValueError)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"", "no rows: the file is empty", "download it again"),
        (b"\n <!DOCTYPE html><html>", "a web page in place of the data file", "/resolve/ and not /blob/"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a git-lfs pointer", "git lfs pull"),
        (
            b'{\n "data": [\n {"id": 1}\n ]\n}\n',
            "a\\.json, line 1: an object that spans lines; expected a list",
            "jq -c",
        ),
        (b"PAR1....", "a parquet file, not JSON", ""),
        (b"PK\x03\x04....", "a zip archive, not JSON", ""),
        (b"\x1f\x8b....", "gzipped, not JSON", ""),
        (b"[\xff\xfe]", r"a\.json, line 1: not UTF-8 text \(byte 0xFF", "iconv -f WINDOWS-1252"),
        (b'["a",\n "\xe9"]', r"a\.json, line 2: not UTF-8 text \(byte 0xE9", "iconv -f WINDOWS-1252"),
        ("[1]".encode("utf-16"), "line 1: UTF-16 text, not UTF-8", "iconv -f UTF-16"),
    ],
)
def test_what_is_no_json_is_recognised(tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(json_rows(tmp_path / "a.json"))
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        list(json_rows(tmp_path / "none.json"))


def test_an_empty_list_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" [ ] ")
    assert list(json_rows(tmp_path / "a.json")) == []


TWICE = [
    '{"id": 1, "id": 2}',
    '{"a" : 1, "a":2}',
    '{"a":\t1,"a"\t:2}',
    '{"a": [{"from": "human", "value": "x", "value": "y"}]}',
    '{"a": "say \\":\\" or \\": ", "a": 1}',
]


@pytest.mark.parametrize("text", TWICE)
def test_a_row_with_a_key_twice_is_an_error_of_that_row(text: str, tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", f'{{"b": "\\":"}}\n{text}\n{{"c": 1}}\n'),
        ("a.json", f'[{{"b": 1}},\n {text}, 3]'),
    ):
        (tmp_path / name).write_text(content)
        first, second, third = (row.value for row in json_rows(tmp_path / name))
        assert not isinstance(first, ValueError)
        assert not isinstance(third, ValueError)
        assert isinstance(second, RepeatedKeyError)
        assert "stands twice in one object" in second.reason
