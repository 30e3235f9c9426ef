from pathlib import Path

import pytest

from tests.commands.croc import croc
from tests.sources.data import small_spec

RECIPE = """\
extends: nano
name: mine
data:
  root: {root}
  reconstruct:
    kind: mix
    sources:
      captions: {{path: captions.json, image_root: pictures}}
      text: {{path: text.jsonl, count: 15}}
"""


@pytest.fixture(autouse=True)
def counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave counting tokens out, whose process takes seconds to start, but where a test is about it."""
    if "tokens" not in request.node.name:
        monkeypatch.setattr("croc_cli.pipeline.lengths.count_lengths", lambda *_: None)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    small_spec(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(RECIPE.format(root=tmp_path / "data"))
    return str(tmp_path / "mine.yaml")


def test_a_mix_is_made_and_its_sources_are_listed(recipe: str, tmp_path: Path) -> None:
    answer = croc("data", "mix", recipe, "--stage", "reconstruct")
    assert answer.code == 0, answer.err
    folder = tmp_path / "data" / "mixes" / "mine-reconstruct"
    assert answer.out.splitlines()[:4] == [
        "source    rows in  left out     rows  licence",
        "captions       10  –              10  –",
        "text           20  5 not drawn    15  –",
        "25 rows: 10 with an image, 15 of text alone",
    ]
    assert answer.out.splitlines()[4].startswith(f"{folder}  order ")
    assert (folder / "rows.jsonl").is_file()


def test_tokens_are_counted_with_the_recipes_tokenizer_and_estimated_where_there_is_none(
    recipe: str, tmp_path: Path
) -> None:
    assert croc("data", "mix", recipe).code == 0
    [lengths] = (tmp_path / "data" / "mixes" / "mine-reconstruct" / "lengths").glob("[!.]*.npy")
    counted = lengths.stat().st_mtime_ns
    assert croc("data", "mix", recipe).code == 0
    assert lengths.stat().st_mtime_ns == counted
    answer = croc("data", "mix", recipe, "--force", "--set", "model.llm=some/llm-that-is-not-here")
    assert answer.code == 0, answer.err
    assert "the tokenizer of some/llm-that-is-not-here is not on this machine" in answer.err
    assert "stay estimates" in answer.err


def test_a_mix_that_is_there_already_is_not_made_again(recipe: str, tmp_path: Path) -> None:
    croc("data", "mix", recipe)
    rows = tmp_path / "data" / "mixes" / "mine-reconstruct" / "rows.jsonl"
    made = rows.stat().st_mtime_ns
    answer = croc("data", "mix", recipe)
    assert "is up to date" in answer.err
    assert rows.stat().st_mtime_ns == made
    assert croc("data", "mix", recipe, "--force").code == 0
    assert rows.stat().st_mtime_ns != made
    assert "up to date" not in croc("data", "mix", recipe, "--set", "data.reconstruct.seed=4").err


def test_a_dry_run_touches_nothing(recipe: str, tmp_path: Path) -> None:
    answer = croc("data", "mix", recipe, "--dry-run")
    assert answer.code == 0
    assert "text: 15 rows of" in answer.out
    assert not (tmp_path / "data" / "mixes").exists()


def test_wrong_usage_is_one_line_and_a_hint(recipe: str) -> None:
    for words, message, hint in (
        ((recipe, "--stage", "fine"), "--stage fine: unknown stage", "one of align, reconstruct, finetune"),
        (("nano",), "recipe nano trains on no mix", "`kind: mix`"),
        ((recipe, "--stage", "align"), "is of kind scenes, so there is no mix to make", "preset or sources"),
        ((recipe, "--set", "data.reconstruct.sources.text.count=21"), "only 20 can be drawn", "leave count out"),
        (("croc-7b", "--stage", "align"), "lcs558k: data/llava", "`croc data fetch lcs558k` gets it"),
    ):
        answer = croc("data", "mix", *words)
        assert answer.code == 2
        assert message in answer.err
        assert hint in answer.err
        assert answer.out == ""
