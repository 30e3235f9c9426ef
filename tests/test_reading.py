import json
from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.reading import TextError, decode_text, json_text, parse_json, printable, read_json_file, read_json_lines


def test_json_is_read_with_and_without_a_mark_of_its_byte_order(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "a.json").write_text('{"a": "é"}', encoding=encoding)
        assert read_json_file(tmp_path / "a.json") == {"a": "é"}
        (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n[2]\n', encoding=encoding)
        assert list(read_json_lines(tmp_path / "a.jsonl")) == [(1, {"a": 1}), (3, [2])]


@pytest.mark.parametrize(
    ("content", "reason", "hint"),
    [
        (b'{"a": 1}\n{"b": 2}', "line 2, column 1: not JSON: Extra data", None),
        (b'{"a":\n oops}', "line 2, column 2: not JSON: Expecting value", None),
        (b"", "line 1, column 1: not JSON: Expecting value", None),
        (b'["a",\n"caf\xe9"]', "line 2: not UTF-8 text (byte 0xE9, as", "`iconv -f WINDOWS-1252 -t UTF-8 "),
        ("{}".encode("utf-16"), "line 1: UTF-16 text, not UTF-8", "`iconv -f UTF-16 -t UTF-8 "),
        ("{}".encode("utf-32"), "line 1: UTF-32 text, not UTF-8", "`iconv -f UTF-32 -t UTF-8 "),
        (b"[" * 100_000, "nested too deeply", None),
        (b"9" * 5000, "Exceeds the limit", None),
    ],
)
def test_what_is_not_json_is_named_with_its_place(
    tmp_path: Path, content: bytes, reason: str, hint: str | None
) -> None:
    with pytest.raises(TextError) as caught:
        parse_json(content)
    assert reason in caught.value.reason
    file = tmp_path / "it is.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"it is\.json, ") as raised:
        read_json_file(file)
    assert reason in raised.value.message
    if hint is not None:
        assert hint in (raised.value.hint or "")
        assert f"'{tmp_path}/it is.json' > '{tmp_path}/it is.utf8.json'" in (raised.value.hint or "")


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    for content, message in (
        (b'{"a": 1}\n{"a": 1}{"b": 2}\n', r"a\.jsonl, line 2, column 9: not JSON: Extra data"),
        (b'{"a": 1}\n{"a": "\xfc"}\n', r"a\.jsonl, line 2: not UTF-8 text"),
    ):
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(UsageError, match=message):
            list(read_json_lines(tmp_path / "a.jsonl"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: cannot be read: No such file"):
        read_json_file(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"none\.json: cannot be read: No such file"):
        list(read_json_lines(tmp_path / "none.json"))


def test_halves_of_letters_are_written_as_escapes() -> None:
    assert json_text({"a": "é"}) == '{"a": "é"}'
    assert json.loads(json_text(["red \ud83d", "é"])) == ["red \ud83d", "é"]
    assert json_text("\ud83d").isascii()
    assert printable("a\x1b[2Jb\n\ud83dé") == "a\\x1b[2Jb\\n\\ud83dé"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": 1, "b": 2, "a": 3}', 1),
        ('[{"a": 1},\n {"a": 2,\n  "a": 2}]', 2),
        ('{"x":\n {"y": [\n {"a": 1, "\\u0061": 2}]}}', 3),
    ],
)
def test_a_key_that_stands_twice_in_an_object_is_named(text: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(TextError, match=f"^line {line}: the key 'a' stands twice in one object$"):
        parse_json(text.encode())
    (tmp_path / "a.jsonl").write_text("{}\n" + text.replace("\n", " "))
    with pytest.raises(UsageError, match=r"a\.jsonl, line 2: the key 'a' stands twice"):
        list(read_json_lines(tmp_path / "a.jsonl"))


def test_utf_16_is_read_where_it_is_asked_for() -> None:
    assert decode_text("é".encode("utf-16"), utf16=True) == "é"
    with pytest.raises(TextError, match="damaged UTF-16 at byte"):
        decode_text("é".encode("utf-16") + b"\x00", utf16=True)
