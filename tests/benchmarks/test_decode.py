"""Text in any encoding is read or refused in one line that names file and row."""

import json
from pathlib import Path

import pytest

from croc_cli.benchmarks.decode import BenchmarkDataError, read_json, read_json_lines, take_id
from croc_cli.benchmarks.registry import benchmarks
from tests.benchmarks.golden_files import write_files
from tests.benchmarks.runs import pope_rows, write_pope, write_rows
from tests.commands.croc import croc


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_marked_utf_8_and_utf_16_are_read(encoding: str, tmp_path: Path) -> None:
    if encoding == "utf-16-le":  # without a mark it is not text
        with pytest.raises(BenchmarkDataError, match="not JSON|not UTF-8"):
            benchmarks()["pope"].read(write_pope(tmp_path, encoding=encoding))
        return
    assert len(benchmarks()["pope"].read(write_pope(tmp_path, encoding=encoding))) == 12
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"a": "é"}), encoding=encoding)
    assert read_json(file) == {"a": "é"}


def test_latin_1_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes('{"a": "e"}\n{"a": "é"}\n'.encode("latin-1"))
    with pytest.raises(BenchmarkDataError, match=r"a.jsonl, line 2: not UTF-8 text \(byte 0xE9") as caught:
        list(read_json_lines(file))
    assert "iconv -f WINDOWS-1252" in str(caught.value.hint)


def test_half_a_surrogate_pair_is_read_as_the_replacement_character(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": ["\\ud83d x", "\\ud83d\\ude00"]}')
    assert read_json(file) == {"a": ["\ufffd x", "😀"]}


@pytest.mark.parametrize("text", ["[1", "[" * 100_000, "1" * 5000, '{"a": 1}{"a": 2}', ""])
def test_what_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(BenchmarkDataError, match=r"a.json, line 1.*: not JSON"):
        read_json(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"question_id": 1, "text": "Yes"\n', "pope.jsonl, line 1, column 33: not JSON"),
        ('{"question_id": 1}\n', "pope.jsonl, line 1: no field 'text'"),
        ("[1]\n", "pope.jsonl, line 1: not a JSON object"),
        ('{"question_id": 1, "text": "\xe9"}\n', "pope.jsonl, line 1: not UTF-8"),
    ],
)
def test_a_damaged_answer_file_is_named_with_its_line(content: str, said: str, tmp_path: Path) -> None:
    root = write_pope(tmp_path / "data")
    file = tmp_path / "run" / "benchmarks" / "predictions" / "pope.jsonl"
    write_rows(file, pope_rows())
    file.write_bytes(content.encode("latin-1") + file.read_bytes())
    answer = croc("eval", "score", str(tmp_path / "run"), "--data", str(root))
    assert answer.code == 1
    assert said in answer.err


@pytest.mark.parametrize("name", ["gqa", "vqav2", "vizwiz", "textvqa", "scienceqa", "seedbench", "mmvet", "docvqa"])
@pytest.mark.parametrize("content", ["[]", "{}", "[1]", '{"questions": 1, "data": [3], "annotations": {}}', "3"])
def test_files_of_another_form_are_refused_in_one_line(name: str, content: str, tmp_path: Path) -> None:
    root = write_files(name, tmp_path)
    for file in (root / benchmarks()[name].folder).rglob("*.json"):
        file.write_text(content)
    said = ""
    try:
        assert not benchmarks()[name].read(root)
    except BenchmarkDataError as error:
        said = error.message
    assert "\n" not in said


@pytest.mark.parametrize("value", [[[]], {}, None, True, 1.5])
def test_an_id_that_can_name_nothing_is_told_with_its_place(value: object) -> None:
    with pytest.raises(BenchmarkDataError, match="question_id is .*, expected text or a whole"):
        take_id({"question_id": value}, "question_id", "q.json, question 1")
