import csv
import re
from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.report.run_page import labels, write_report
from tests.report.runs import make_run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([make_run(tmp_path_factory.mktemp("runs") / "nano")])


def test_the_page_of_a_run_needs_nothing_else_and_has_its_data_beside_it(page: Path) -> None:
    assert page.parts[-3:] == ("nano", "report", "index.html")
    text = page.read_text()
    assert re.findall(r'(?:src|href)="(?!data:|#|[\w.-]+\.(?:csv|svg)")[^"]*"', text) == []
    assert re.findall(r"url\((?!#)[^)]*\)|@import|<script|<link rel=\"stylesheet", text) == []
    names = re.findall(r'href="([\w.-]+\.(?:csv|svg))"', text)
    assert len(names) > 20
    assert [name for name in names if not (page.parent / name).is_file()] == []
    for needed in (
        "align-caption-loss",
        "reconstruction-loss",
        "pool-use",
        "gradient-shares",
        "data-composition",
        "accuracy",
    ):
        assert f"{needed}.csv" in names
        assert len(list(csv.reader((page.parent / f"{needed}.csv").open()))) > 1
    assert text.count("<svg") == text.count("</svg>") > 10
    assert "80.0 %" in text


def test_the_table_of_stages_says_what_each_trains(page: Path) -> None:
    rows = list(csv.DictReader((page.parent / "stages.csv").open()))
    assert {row["stage"]: row["trains"] for row in rows if row["trains"]} == {
        "align": "projector",
        "reconstruct": "projector, LLM",
        "finetune": "projector, LLM",
    }


def test_the_gradient_norm_of_each_group_stands_beside_that_of_all(page: Path) -> None:
    rows = list(csv.DictReader((page.parent / "finetune-gradient-norm.csv").open()))
    assert {row["series"] for row in rows} == {"all", "projector", "LLM"}
    assert "projector" not in (page.parent / "align-gradient-norm.csv").read_text()


def test_ids_on_the_page_are_unique(page: Path) -> None:
    text = page.read_text()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_several_runs_stand_side_by_side_with_what_keeps_them_apart(tmp_path: Path) -> None:
    only = ("reconstruct",)
    a = make_run(tmp_path / "a" / "run", stages=only)
    b = make_run(tmp_path / "b" / "run", stages=only, reconstruct__matching="nearest", steps=9)
    text = write_report([a, b], out=tmp_path / "both").read_text()
    assert "different reconstruct steps: a 20, b 9" in text
    assert "reconstruct.matching" in text
    figure = (tmp_path / "both" / "pool-use-by-run.csv").read_text()
    assert figure.splitlines()[1:] == ["in the last 50 steps,a,0.9,", "in the last 50 steps,b,0.9,"]


def test_names_in_recipes_are_escaped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "nano", stages=("finetune",), scenes=None)
    recipe = folder / "finetune" / "recipe.yaml"
    recipe.write_text(re.sub(r"(?m)^description:.*$", "description: <script>alert(1)</script>", recipe.read_text()))
    text = write_report([folder]).read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_run_with_nothing_but_a_torn_file_still_has_a_page(tmp_path: Path) -> None:
    stage = tmp_path / "run" / "align"
    stage.mkdir(parents=True)
    (stage / "metrics.jsonl").write_text('{"step": 1, "lo')
    text = write_report([tmp_path / "run"]).read_text()
    assert "align is not finished: no step is written down" in text


def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the report cannot be written to") as error:
        write_report([make_run(tmp_path / "nano", stages=("align",), scenes=None)], out=tmp_path / "file")
    assert error.value.hint == "--out DIR writes it elsewhere"


def test_labels_are_as_short_as_telling_runs_apart_allows() -> None:
    assert labels([Path("/runs/nano"), Path("/runs/smol")]) == ["nano", "smol"]
    assert labels([Path("runs/s0/run"), Path("runs/s1/run")]) == ["s0", "s1"]
    assert labels([Path("/a/x/run"), Path("/b/x/other")]) == ["run", "other"]
    assert labels([Path("/abl/nearest/seed-0"), Path("/abl/mixed/seed-0"), Path("/abl/mixed/seed-1")]) == [
        "nearest/seed-0",
        "mixed/seed-0",
        "mixed/seed-1",
    ]
    assert labels([Path("/runs/nano"), Path("/runs/nano")]) == ["1: nano", "2: nano"]
