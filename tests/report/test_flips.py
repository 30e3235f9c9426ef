"""The page of the answers in which two runs differ."""

import json
import re
from pathlib import Path

from croc_cli.benchmarks.registry import benchmarks
from croc_cli.benchmarks.results import write_items
from croc_cli.report.flips import FLIPS_FILE, MOST_SHOWN
from croc_cli.report.run_page import write_report
from croc_cli.run_dir import RunDir
from tests.benchmarks.golden_files import draw_pictures, write_files
from tests.benchmarks.mmmu_files import write_merged
from tests.benchmarks.test_paired import items, write_run
from tests.report.runs import make_run


def two_runs(folder: Path, name: str, first: list[dict[str, object]], second: list[dict[str, object]]) -> list[Path]:
    runs = [make_run(folder / run, stages=("align",), scenes=None) for run in "ab"]
    for run, rows in zip(runs, (first, second), strict=True):
        write_run(run, name, rows)
    return runs


def test_the_report_of_two_runs_has_the_tests_and_a_page_of_both_answers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    draw_pictures("pope", write_files("pope", data))
    asked = [
        {
            "question_id": record.question_id,
            "picture": record.picture.name if record.picture else None,
            "prompt": record.prompt,
            "expected": record.answer,
            "text": "<b>Yes</b>",
            "score": 1.0,
        }
        for record in benchmarks()["pope"].read(data)
    ]
    other = [row | {"text": "No", "score": 0.0} for row in asked[:2]] + asked[2:]
    runs = two_runs(tmp_path, "pope", asked, other)
    (runs[1] / "benchmarks" / "task.json").write_text(json.dumps({"data": str(data)}))
    page = write_report(runs)
    assert f'href="{FLIPS_FILE}"' in page.read_text()
    assert (page.parent / "paired.csv").read_text().splitlines()[0].startswith("benchmark,questions,difference")
    text = (page.parent / FLIPS_FILE).read_text()
    assert "POPE: 2 worse in b" in text
    assert text.count("data:image/jpeg;base64,") == 2
    assert text.count("<dt>question</dt>") == 2
    assert "&lt;b&gt;Yes&lt;/b&gt;" in text
    assert "<dd>right → wrong</dd>" in text
    assert 'src="http' not in text
    assert "script" not in re.sub(r"default-src 'none'[^\"]*", "", text)


def test_every_picture_of_a_question_is_shown(tmp_path: Path) -> None:
    data = write_merged(tmp_path / "data")
    records = benchmarks()["mmmu"].read(data)
    stage_dir = RunDir(tmp_path / "items").stage("benchmarks")
    file = write_items(benchmarks()["mmmu"], [(record, "?") for record in records], [1.0] * len(records), stage_dir)
    asked = [json.loads(line) for line in file.read_text().splitlines()]
    runs = two_runs(tmp_path, "mmmu", asked, [row | {"text": "!", "score": 0.0} for row in asked])
    page = write_report(runs)
    gone = (page.parent / FLIPS_FILE).read_text()
    assert "row 0, image_1 / validation-00000" in gone
    (runs[1] / "benchmarks" / "task.json").write_text(json.dumps({"data": str(data)}))
    write_report(runs)
    assert (page.parent / FLIPS_FILE).read_text().count("data:image/jpeg;base64,") == 1 + 2 + 3 + 1


def test_the_page_names_pictures_that_are_gone_and_says_how_many_it_leaves_out(tmp_path: Path) -> None:
    count = MOST_SHOWN + 5
    runs = two_runs(tmp_path, "gqa", items([1.0] * count), items([0.0] * count))
    page = write_report(runs)
    text = (page.parent / FLIPS_FILE).read_text()
    assert f"GQA: {MOST_SHOWN} of {count} worse in b" in text
    assert text.count("<dd>p.png</dd>") == MOST_SHOWN


def test_a_report_of_one_run_or_of_runs_without_answers_has_no_such_page(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / run, stages=("align",)) for run in "ab"]
    for chosen in (runs[:1], runs):
        page = write_report(chosen)
        assert "The same questions" not in page.read_text()
        assert not (page.parent / FLIPS_FILE).exists()
