from pathlib import Path

import pytest

from tests.commands.croc import croc
from tests.sources.data import image_row, small_spec, text_row, write_json, write_pictures


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_good_data_ends_with_zero(tmp_path: Path) -> None:
    small_spec(tmp_path)
    answer = croc("data", "verify", str(tmp_path / "captions.json"), "--image-folder", str(tmp_path / "pictures"))
    assert answer.code == 0
    assert "captions.json: 10 rows\nnothing is wrong with it; --deep decodes its images too" in answer.out


def test_bad_data_ends_with_two_and_shows_twenty(tmp_path: Path) -> None:
    path = write_json(tmp_path / "rows.json", [image_row(image=None)] * 30)
    answer = croc("data", "verify", str(path))
    assert answer.code == 2
    assert "rows.json: 30 rows, 30 with errors" in answer.out
    assert "error    image-null: 30 × an image that is null or empty" in answer.out
    assert answer.out.count("         row ") == 20
    assert "… 10 more" in answer.out
    assert "--fix writes a copy" in answer.out
    fixed = croc("data", "verify", str(path), "--fix")
    assert fixed.code == 0
    assert "clean copy:" in fixed.out


def test_a_recipes_data_is_checked_for_what_its_stages_ask(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 2)
    write_json(tmp_path / "align.json", [image_row(0), text_row(1)])
    write_json(tmp_path / "tune.json", [image_row(1)])
    source = "{{kind: llava_json, path: {0}/{1}.json, image_folder: {0}/images}}"
    lines = [
        f"  {stage}: " + source.format(tmp_path, name) for stage, name in (("align", "align"), ("finetune", "tune"))
    ]
    (tmp_path / "mine.yaml").write_text("\n".join(["extends: nano", "data:", *lines]) + "\n")
    answer = croc("data", "verify", str(tmp_path / "mine.yaml"))
    assert answer.code == 2
    assert "error    not-a-caption: 1 ×" in answer.out
    assert "row 1: text alone" in answer.out
    assert "tune.json: 1 row\nnothing is wrong with it" in answer.out
    shorter = croc(
        "data",
        "verify",
        str(tmp_path / "mine.yaml"),
        "--stage",
        "finetune",
        "--deep",
        "--set",
        "finetune.max_length=40",
    )
    assert shorter.code == 2
    assert "no-trained-token" in shorter.out


def test_what_is_not_there_is_one_line_and_a_hint() -> None:
    for words, message in (
        (("none/at/all",), "none/at/all does not exist"),
        (("nan",), "no recipe named 'nan'"),
        (("nano",), "draws its data as it trains"),
        (("croc-7b",), "there is no mix data/mixes/lcs558k yet"),
        (("croc-7b", "--stage", "tune"), "unknown stage"),
    ):
        answer = croc("data", "verify", *words)
        assert answer.code == 2
        assert message in answer.err
        assert "hint:" in answer.err


def test_a_clean_copy_comes_with_the_recipe_lines_that_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "images", 2)
    rows = [image_row(0), image_row(1), image_row(2, image=None)]
    write_json(tmp_path / "rows.json", rows)
    source = "{kind: llava_json, path: rows.json, image_folder: images}"
    (tmp_path / "own.yaml").write_text(f"extends: nano\ndata: {{align: {source}}}\n")
    fixed = croc("data", "verify", "own.yaml", "--stage", "align", "--fix")
    assert fixed.code == 0
    lines = fixed.out.partition("to train on it, write into the recipe:\n")[2]
    assert "kind: llava_json" in lines
    (tmp_path / "new.yaml").write_text("extends: nano\n" + lines.replace("\n  ", "\n")[2:])
    again = croc("data", "verify", "new.yaml", "--stage", "align", "--fix")
    assert again.code == 0, again.err
    assert "rows.clean.jsonl: 2 rows\n" in again.out
    assert "no row has an error, so there is nothing to leave out and no copy" in again.out
    assert not list(tmp_path.glob("rows.clean.clean*"))
    alone = croc("data", "verify", "rows.json", "--image-folder", "images", "--fix")
    assert "  finetune:  # or another stage\n" in alone.out
    # What comes next uses the clean copy; a recipe has to name it first.
    assert "next: `croc init --data rows.clean.jsonl --images images`" in alone.err
    assert "croc run own.yaml" not in fixed.err
    assert "next: `croc run new.yaml`" in again.err


def test_a_clean_mix_comes_with_the_recipe_lines_that_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_pictures(tmp_path / "images", 2)
    write_json(tmp_path / "rows.json", [image_row(number) for number in range(3)])
    source = "{kind: mix, sources: {mine: {path: rows.json, image_root: images}}}"
    (tmp_path / "own.yaml").write_text(f"extends: nano\ndata: {{align: {source}}}\n")
    assert croc("data", "mix", "own.yaml", "--stage", "align").code == 0
    fixed = croc("data", "verify", "own.yaml", "--stage", "align", "--fix")
    assert "  align:\n      path: data/mixes/own-align-clean" in fixed.out
    settled = ("--set", "data.align.path=data/mixes/own-align-clean")
    assert "own-align-clean: 2 rows" in croc("data", "verify", "own.yaml", "--stage", "align", *settled).out
