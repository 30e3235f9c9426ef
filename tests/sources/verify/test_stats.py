import json
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from croc_cli.errors import UsageError
from croc_cli.report.data_page import figure_counts, write_data_page
from croc_cli.sources.mix.export import export_mix
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.read.index import MixFolder
from croc_cli.sources.read.readers import open_source
from croc_cli.sources.read.spec import SourceSpec
from croc_cli.sources.verify.stats import collect_stats, quantiles, writing_of
from tests.sources.data import image_row, small_spec, text_row, turns, write_json


def test_a_mix_is_counted_by_source_folder_and_length(tmp_path: Path) -> None:
    build_mix(small_spec(tmp_path), tmp_path / "mix")
    stats = collect_stats(tmp_path / "mix")
    assert (stats.rows, stats.bad) == (30, 0)
    assert stats.sources == {"captions": 10, "text": 20}
    assert stats.folders == {".": 10, "": 20}
    assert stats.turns == {1: 30}
    assert stats.writing == {"Latin": 10, "no letters": 20}
    assert stats.sizes == [(48, 40)] * 10
    assert len(stats.tokens) == 30
    exact = collect_stats(tmp_path / "mix", tokens=lambda row: (len(row["conversations"]), 1))
    assert exact.tokens == [2] * 30
    assert exact.exact


def test_rows_with_errors_are_counted_apart(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [text_row(1), image_row(image=None)])
    stats = collect_stats(path)
    assert (stats.rows, stats.bad, len(stats.tokens)) == (2, 1, 1)


@pytest.mark.parametrize(
    ("text", "writing"),
    [
        ("A quiet harbour.", "Latin"),
        ("Un café à l'été", "Latin"),
        ("一个安静的港口", "Han"),
        ("静かな港です", "Kana"),
        ("조용한 항구", "Hangul"),
        ("Тихая гавань", "Cyrillic"),
        ("the word 港 in a long English sentence", "Latin"),
        ("12 + 3 = 15", "no letters"),
        ("→ 15", "no letters"),
    ],
)
def test_the_writing_of_a_text(text: str, writing: str) -> None:
    assert writing_of(text) == writing


def test_quantiles_are_values_that_occur() -> None:
    assert quantiles(list(range(100))) == (50, 90, 99, 99)
    assert quantiles([]) == (0, 0, 0, 0)


def test_the_page_has_its_figures_and_an_overview(tmp_path: Path) -> None:
    build_mix(small_spec(tmp_path), tmp_path / "mix")
    stats = collect_stats(tmp_path / "mix")
    page = write_data_page(stats, [["rows", "30", ""], ["source text", "20", "66.7%"]], tmp_path / "out")
    text = page.read_text()
    assert text.count('<svg class="plot"') + text.count('class="plot" role="img"') >= 6
    assert "source text" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    with Image.open(tmp_path / "out" / "overview.png") as image:
        assert image.width > 1000
    assert (tmp_path / "out" / "folders.csv").read_text().splitlines()[1:] == ["rows,text alone,20,", "rows,.,10,"]


def test_lengths_are_put_into_classes_without_empty_ends(tmp_path: Path) -> None:
    data = [text_row(0, conversations=turns("a", "b" * size)) for size in (4, 80, 90, 3000)]
    counts = figure_counts(collect_stats(write_json(tmp_path / "a.json", data)))
    assert counts["answers"][2] == {
        "0–15": 1,
        "16–31": 2,
        "32–63": 0,
        "64–127": 0,
        "128–255": 0,
        "256–511": 0,
        "512–1023": 1,
    }


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_an_exported_mix_is_llavas_own_form(tmp_path: Path, form: str) -> None:
    build_mix(small_spec(tmp_path), tmp_path / "mix")
    out = tmp_path / f"out.{form}"
    assert export_mix(tmp_path / "mix", out) == 30
    rows = [row.row for row in open_source(SourceSpec("it", out)).rows()]
    mix = MixFolder(tmp_path / "mix")
    expected = [json.loads(mix.read(position)) for position in range(30)]
    for row in expected:
        if "image" in row:
            row["image"] = f"pictures/{row['image']}"
    assert rows == expected
    assert all((tmp_path / row["image"]).is_file() for row in rows if "image" in row)
    if form == "json":
        assert json.loads(out.read_text()) == expected


def test_an_exported_parquet_has_columns_of_one_type(tmp_path: Path) -> None:
    build_mix(small_spec(tmp_path), tmp_path / "mix")
    export_mix(tmp_path / "mix", tmp_path / "out.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(rows) == 30
    assert sorted({len(row["image"]) for row in rows}) == [0, 1]
    assert all(isinstance(row["id"], str) and row["conversations"][1]["from"] == "gpt" for row in rows)


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown format") as caught:
        export_mix(tmp_path, tmp_path / "out.xml")
    assert ".parquet" in (caught.value.hint or "")
