"""OCRBench: what counts as right, the five groups, both forms of its files."""

import base64
from pathlib import Path
from typing import Any

import pytest

from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.registry import benchmarks, choose
from croc_cli.benchmarks.scorers.ocr import ocr_is_right
from tests.benchmarks.golden_files import png
from tests.benchmarks.ocrbench_files import ROWS, write_ocrbench


@pytest.mark.parametrize(
    ("text", "answers", "is_formula", "right"),
    [
        ("The word is CHAIN.", ["Chain"], False, True),
        ("coca\ncola", ["Coca Cola"], False, True),
        ("coca  cola", ["coca cola"], False, False),
        ("A pepsi", ["coke", "pepsi"], False, True),
        ("", ["coke"], False, False),
        ("anything", [""], False, True),
        ("", [" \n"], False, True),
        ("anything", [], False, False),
        ("so x=\\frac{1}\n{5} it is", ["x = \\frac { 1 } { 5 }\n"], True, True),
        ("X=\\frac{1}{5}", ["x = \\frac { 1 } { 5 }"], True, False),
        ("x =\t1", ["x = 1"], True, False),
    ],
)
def test_a_right_answer_contains_a_right_text(text: str, answers: list[str], is_formula: bool, right: bool) -> None:
    assert ocr_is_right(text, answers, is_formula=is_formula) is right


def test_the_score_is_the_number_of_right_answers_with_those_of_each_group(tmp_path: Path) -> None:
    benchmark = benchmarks()["ocrbench"]
    records = benchmark.read(write_ocrbench(tmp_path))
    assert [record.prompt for record in records[:2]] == ["what is written in the image?", "What is the brand?"]
    assert [record.question_id for record in records] == list(range(6))
    assert (benchmark.size, benchmark.max_new_tokens) == (1000, 128)
    score = benchmark.score(records, ["CHAIN", "Coke", "X=\\frac{1}{5}", "j. smith", "26,58", "my home"])
    assert score.value == 4
    assert list(score.per_item) == [1, 1, 0, 1, 0, 1]
    assert score.parts["per_group"] == {
        "recognition": {"right": 2, "questions": 2},
        "scene text VQA": {"right": 1, "questions": 1},
        "formulas": {"right": 0, "questions": 1},
        "document VQA": {"right": 1, "questions": 1},
        "key information": {"right": 0, "questions": 1},
    }
    low, high = score.interval() or (0, 0)
    assert 0 <= low <= 4 <= high <= 6


def test_vlmevalkit_tells_formulas_by_their_type(tmp_path: Path) -> None:
    [kit] = choose("ocrbench", {"ocrbench": "vlmevalkit"})
    records = kit.read(write_ocrbench(tmp_path, dataset="CROHME"))
    assert records[0].prompt == " what is written in the image?\n"
    texts = ["", "", "x=\\frac{1}{5}", "", "", ""]
    score = kit.headline_of(kit.score(records, texts))
    assert (score.value, list(score.per_item)) == (1, [0, 0, 1, 0, 0, 0])
    assert score.variants["primary"].value == 0  # spaces count where the source is another one


def test_vlmevalkit_s_table_is_read(tmp_path: Path) -> None:
    cell = base64.b64encode(png()).decode()
    lines = ["index\tquestion\tanswer\tcategory\timage"]
    lines += [f"{n}\t{row[2].strip()}\t{row[3]!r}\t{row[1]}\t{cell}" for n, row in enumerate(ROWS)]
    (tmp_path / "ocrbench").mkdir()
    (tmp_path / "ocrbench" / "OCRBench.tsv").write_text("\n".join(lines) + "\n")
    benchmark = benchmarks()["ocrbench"]
    assert benchmark.lacks(tmp_path) == []
    records = benchmark.read(tmp_path)
    assert records[1].answer == ["coca cola", "coke"]
    assert records[0].pictures[0].open().size == (8, 8)
    assert benchmark.score(records, ["chain", "", "x=\\frac{1}{5}", "", "", ""]).value == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question_type": "Poetry"}, "row 0: question_type 'Poetry'"),
        ({"answer": None}, "row 0: answer is None, expected a list of texts"),
        ({"question": 3}, "row 0: question is 3, expected text"),
    ],
)
def test_what_no_row_may_hold_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkDataError, match=message):
        benchmarks()["ocrbench"].read(write_ocrbench(tmp_path, **changes))
