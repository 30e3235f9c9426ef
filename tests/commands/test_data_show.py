from pathlib import Path

import pytest
from PIL import Image

from croc_cli.commands.data_show import blocks
from croc_cli.sources.mix.mix import build_mix
from tests.commands.croc import croc
from tests.sources.data import image_row, small_spec, write_json, write_pictures


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    build_mix(small_spec(tmp_path), tmp_path / "mix")
    return tmp_path / "mix"


def test_a_sample_is_shown_with_what_is_trained_of_it(mix: Path) -> None:
    answer = croc("data", "show", str(mix), "--row", "2", "--recipe", "nano")
    assert answer.code == 0, answer.err
    head, text, legend = answer.out.strip().split("\n\n")
    assert head.splitlines()[0] == f"{mix}, row 2: captions#9"
    assert "36 visual" in head
    assert "image 00009.jpg: 48 × 40 pixels" in head
    assert "<36 visual tokens>\nWhat colour? ASSISTANT:[[ Picture 9 shows a shape.</s>]]" in text
    assert legend == "[[trained]] context <visual>"


def test_what_is_wrong_with_a_row_stands_above_it(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [image_row(), image_row(image=None)])
    answer = croc("data", "show", str(path), "--row", "1")
    assert answer.code == 0
    assert "error: image-null: nothing" in answer.out
    missing = croc("data", "show", str(path), "--recipe", "nano")
    assert "image 00000.jpg: No such file or directory" in missing.out


def test_a_row_that_is_not_there_is_one_line(mix: Path) -> None:
    answer = croc("data", "show", str(mix), "--row", "30")
    assert answer.code == 2
    assert "has no row 30" in answer.err
    assert "it has 30 rows, counted from 0" in answer.err


def test_a_page_shows_the_same(mix: Path, tmp_path: Path) -> None:
    answer = croc("data", "show", str(mix), "--row", "2", "--recipe", "nano", "--html", str(tmp_path / "row.html"))
    assert answer.out.strip() == str(tmp_path / "row.html")
    text = (tmp_path / "row.html").read_text()
    assert '<img src="data:image/png;base64,' in text
    assert 'title="trained"> Picture 9 shows a shape.&lt;/s&gt;</span>' in text


def test_a_stage_that_cannot_train_on_a_row_is_said(mix: Path) -> None:
    answer = croc("data", "show", str(mix), "--row", "0", "--recipe", "nano", "--stage", "align")
    assert answer.code == 0
    assert croc("data", "show", str(mix), "--stage", "tune").code == 2


def test_a_picture_becomes_half_blocks() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    lines = blocks(image, columns=4).split("\n")
    assert len(lines) == 2
    assert lines[0].count("▀") == 4
    assert "38;2;255;0;0" in lines[0]


def test_the_counts_are_printed_as_a_table_and_as_json(mix: Path, tmp_path: Path) -> None:
    answer = croc("data", "stats", str(mix), "--out", str(tmp_path / "stats"))
    assert answer.code == 0, answer.err
    assert "source captions" in answer.out
    assert "33.3%" in answer.out
    assert (tmp_path / "stats" / "index.html").is_file()
    assert '"rows": 30' in croc("data", "stats", str(mix), "--json").out


def test_a_mix_is_exported(mix: Path, tmp_path: Path) -> None:
    answer = croc("data", "export", str(mix), str(tmp_path / "out.json"))
    assert answer.out == f"{tmp_path / 'out.json'}: 30 rows; image paths start from {tmp_path}\n"
    assert croc("data", "export", str(mix), str(tmp_path / "out.xml")).code == 2


def test_a_mix_is_shown_as_its_own_recipe_trains_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_pictures(tmp_path / "images", 3)
    write_json(tmp_path / "rows.json", [image_row(number) for number in range(3)])
    source = "{kind: mix, sources: {mine: {path: rows.json, image_root: images}}}"
    (tmp_path / "own.yaml").write_text(
        f"extends: nano\nreconstruct: {{max_length: 82}}\ndata: {{reconstruct: {source}}}\n"
    )
    assert croc("data", "mix", "own.yaml", "--stage", "reconstruct").code == 0
    for target in ("data/mixes/own-reconstruct", "own.yaml"):
        answer = croc("data", "show", target)
        assert answer.code == 0, answer.err
        assert "82 tokens as reconstruct sees them (vicuna_v1)" in answer.out
        assert "cut to 82" in answer.out
        assert answer.err == ""
    assert "as align sees them (plain)" in croc("data", "show", "data/mixes/own-reconstruct", "--stage", "align").out
    (tmp_path / "images" / "00001.jpg").write_bytes(b"")
    assert croc("data", "verify", "own.yaml", "--fix", "--stage", "reconstruct").code == 0
    assert "as reconstruct sees them" in croc("data", "show", "data/mixes/own-reconstruct-clean").out
    assert croc("data", "mix", "own.yaml", "--stage", "reconstruct", "--force").code == 0
    drawn = croc("data", "show", "nano")
    assert (drawn.code, "draws its data as it trains" in drawn.err) == (2, True)


def test_pages_are_in_the_house_style_for_dark_pages_and_narrow_ones_too(mix: Path, tmp_path: Path) -> None:
    croc("data", "show", str(mix), "--row", "2", "--recipe", "nano", "--html", str(tmp_path / "row.html"))
    croc("data", "stats", str(mix), "--out", str(tmp_path / "stats"))
    for page in (tmp_path / "row.html", tmp_path / "stats" / "index.html"):
        text = page.read_text()
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
        assert "@media (prefers-color-scheme: dark)" in text
        assert "{{" not in text
        assert 'style="' not in text.partition("<body>")[2].partition("<svg")[0]
    assert "<b>36</b><span>visual tokens</span>" in (tmp_path / "row.html").read_text()
    assert "<th></th><th>number</th><th>share</th>" in (tmp_path / "stats" / "index.html").read_text()
