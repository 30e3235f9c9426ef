"""Runs side by side: intervals, shares, published numbers apart, warnings where columns do not compare."""

import csv
import io
import json
from pathlib import Path

import pytest

from croc_cli.benchmarks.compare import (
    comparison_rows,
    format_rows,
    format_score,
    published,
    published_notes,
    read_scores,
    warnings,
)
from croc_cli.benchmarks.registry import NAMES, OTHERS, benchmarks
from croc_cli.errors import UsageError

POPE = {
    "value": 86.93,
    "interval_95": [86.1, 87.7],
    "num_questions": 10,
    "num_answered": 10,
    "made_by": {"questions_sha256": "a"},
}


def test_a_score_has_its_interval_and_a_partial_one_its_share() -> None:
    assert format_score(POPE) == "86.9 [86.1, 87.7]"
    assert format_score(POPE | {"num_answered": 4}) == "86.9 [86.1, 87.7] (4 of 10)"
    assert format_score(None) == "–"
    assert format_score(POPE | {"value": None}) == "at the server"


def test_published_numbers_stand_in_columns_of_their_own() -> None:
    rows = comparison_rows({"mine": {"pope": POPE}}, paper=True)
    assert rows[0][:3] == ["benchmark", "metric", "mine"]
    assert rows[0][3:] == [f"{model} (published)" for model in published()["models"]]
    variants = [row[1] for row in rows if "vlmevalkit" in row[1]]
    assert len(rows) == 1 + len(NAMES) + len(OTHERS) - 1 + len(variants)  # MMMU's numbers are all of one variant
    assert len(variants) == 9
    pope = next(row for row in rows if row[0] == "POPE")
    assert pope[2] == "86.9 [86.1, 87.7] (10 of 8,910 questions)"
    assert pope[5] == "86.9"
    without = comparison_rows({"mine": {"pope": POPE}}, paper=False)
    assert [row[0] for row in without] == ["benchmark", "POPE"]


def test_every_published_model_has_a_table_and_known_benchmarks() -> None:
    for model, numbers in published()["models"].items():
        assert numbers["table"] in published()["tables"], model
        assert set(numbers) - {"table"} <= {*NAMES, *OTHERS}
    for table, variants in published()["variants"].items():
        assert table in published()["tables"]
        assert all(variant in benchmarks()[name].variants for name, variant in variants.items())


def test_victors_numbers_stand_beside_the_protocol_that_they_look_like() -> None:
    victor = published()["models"]["ViCToR-7B"]
    assert (victor["mme"], victor["ocrbench"], victor["mmmu"], victor["mmbench"]) == (2071, 556, 48.9, 79.0)
    kit = {"value": 1900.0, "variant": "vlmevalkit", "num_questions": 2374, "num_answered": 2374}
    rows = comparison_rows({"mine": {"mme": kit}}, paper=True, models=("Croc-7B", "ViCToR-7B"))
    shown = {tuple(row[:2]): row[2:] for row in rows}
    assert shown["MME", "perception"] == ["–", "1526.4", "–"]
    assert shown["MME", "perception + cognition (vlmevalkit)"] == ["1900.0 (2,374 questions)", "–", "2071.0"]
    assert shown["OCRBench", "score (of 1,000)"] == ["–", "–", "556.0"]
    assert shown["MMBench", "circular accuracy"] == ["–", "67.6", "–"]
    assert shown["MMBench", "circular accuracy (vlmevalkit)"] == ["–", "–", "79.0"]
    assert [note.split(":")[0] for note in published_notes()] == ["ViCToR's README", "Ross's README"]
    assert "MMBench's column is labelled" in published_notes()[0]


def test_other_questions_and_other_judges_are_pointed_out() -> None:
    other = POPE | {"made_by": {"questions_sha256": "b"}}
    assert warnings({"one": {"pope": POPE}, "two": {"pope": other}}) == ["pope: the runs answered different questions"]
    assert not warnings({"one": {"pope": POPE}, "two": {"pope": POPE}})
    earlier = {key: value for key, value in POPE.items() if key != "made_by"} | {"num_answered": 3}
    assert not warnings({"one": {"pope": POPE}, "two": {"pope": earlier}})
    judged = {"mmvet": {"judge": {"model": "x"}}}
    assert "x, y" in warnings({"one": judged, "two": {"mmvet": {"judge": {"model": "y"}}}})[0]


def test_a_table_comes_as_markdown_csv_json_and_text() -> None:
    rows = [["benchmark", "a"], ["POPE", "1, 2"]]
    assert format_rows(rows, "md") == "| benchmark | a |\n| --- | --- |\n| POPE | 1, 2 |"
    assert list(csv.reader(io.StringIO(format_rows(rows, "csv")))) == rows
    assert json.loads(format_rows(rows, "json")) == [{"benchmark": "POPE", "a": "1, 2"}]
    assert format_rows(rows, "text").splitlines()[1] == "POPE       1, 2"


def test_a_folder_without_scores_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no benchmark scores"):
        read_scores(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "results.json").write_text(json.dumps({"benchmarks": {"pope": POPE}}))
    assert read_scores(tmp_path)["pope"]["value"] == POPE["value"]


def test_figures_of_different_variants_stand_in_different_rows() -> None:
    pooled = POPE | {"variant": "pooled", "value": 57.9}
    runs = {"one": {"pope": POPE}, "two": {"pope": pooled}}
    rows = comparison_rows(runs, paper=True, models=("LLaVA-1.5-7B", "Croc-7B"))
    pope = [row for row in rows if row[0] == "POPE"]
    assert [row[1] for row in pope] == ["mean F1", "mean F1 (pooled)"]
    assert [cell.split(" ")[0] for cell in pope[0][2:4]] == ["86.9", "–"]
    assert [cell.split(" ")[0] for cell in pope[1][2:4]] == ["–", "57.9"]
    assert set(pope[1][4:]) == {"–"}  # published numbers are of the primary variant
    assert "different variants: pooled, primary" in warnings(runs)[0]


def test_unreadable_answers_stand_beside_the_score() -> None:
    assert format_score(POPE | {"num_unparsable": 9}) == "86.9 [86.1, 87.7] (9 of 10 answers unreadable)"
    assert format_score(POPE | {"limit": 10, "num_questions": 30}) == "86.9 [86.1, 87.7] (--limit 10; 10 of 30)"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "results.json, line 1, column 2: not JSON"),
        ("[]", "where an object is expected"),
        ('{"benchmarks": 3}', "benchmarks: 3"),
        ('{"benchmarks": {"pope": [1]}}', "pope: [1]"),
        ('{"benchmarks": {"pope": {"value": "high"}}}', "pope: value is"),
        ('{"benchmarks": {"pope": {"value": NaN}}}', "pope: value is NaN"),
        ('{"benchmarks": {"pope": {"value": 1, "interval_95": [1]}}}', "interval_95 is"),
    ],
)
def test_a_damaged_results_file_is_named(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UsageError) as caught:
        read_scores(tmp_path)
    assert said in caught.value.message
