import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from croc_cli.errors import RecipeError, UsageError
from croc_cli.launch.requirements import check_data
from croc_cli.names import StageName
from croc_cli.recipe.load import dump_recipe, load_recipe, load_resolved
from croc_cli.recipe.schema import Recipe
from croc_cli.sources.known.catalog import find_source
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.mix.presets import preset_names, read_preset
from croc_cli.sources.mix.recipe_mix import listed_rows, mix_folder, mix_name, mix_spec, recipe_sources
from croc_cli.sources.read.index import MixFolder
from tests.sources.data import encoded, picture, text_row, write_jsonl


def recipe(**changes: Any) -> Recipe:
    overrides = {key.replace("__", "."): (value, "a test") for key, value in changes.items()}
    return load_recipe("croc-7b", overrides=overrides, environ={}).recipe


def own(tmp_path: Path, **source: Any) -> Recipe:
    data = {"kind": "mix", "sources": {"mine": {"path": "mine.jsonl", **source}}}
    return recipe(data__finetune=data, data__root=str(tmp_path))


def test_the_papers_recipes_train_on_the_presets() -> None:
    loaded = recipe()
    names = {stage: mix_name(loaded, stage) for stage in ("align", "reconstruct", "finetune")}
    assert names == {"align": "lcs558k", "reconstruct": "croc1.5m", "finetune": "mix665k"}
    assert mix_folder(loaded, "reconstruct") == Path("data/mixes/croc1.5m")


@pytest.mark.parametrize("name", preset_names())
def test_every_source_of_a_preset_is_in_the_catalogue_with_rows(name: str) -> None:
    stage: StageName = "finetune"
    spec = mix_spec(recipe(data__finetune={"kind": "mix", "preset": name}), stage)
    assert read_preset(name)[0]
    for source in spec.sources:
        assert source.catalog is not None
        assert source.licence == find_source(source.catalog).licence
        assert source.path.is_relative_to("data")


def test_the_texts_of_stage_1_5_have_the_papers_counts() -> None:
    counts = {source.name: source.count for source in mix_spec(recipe(), "reconstruct").sources}
    given = {name: count for name, count in counts.items() if count is not None}
    assert given == {"mathinstruct": 124_000, "belle": 30_000, "firefly": 25_000, "webqa": 15_000, "dolly": 10_000}
    whole = {"sharegpt4v-pt": 1_246_901, "alpaca": 52_002, "open-platypus": 24_926, "code-alpaca": 20_022}
    assert {name: find_source(name).rows for name in counts if counts[name] is None} == whole
    texts = sum(given.values()) + sum(whole.values()) - whole["sharegpt4v-pt"]
    assert round(texts / 1000) == 301


def test_the_800k_has_the_counts_that_are_listed() -> None:
    sources = recipe_sources(recipe(data__finetune={"kind": "mix", "preset": "croc800k-as-listed"}), "finetune")
    drawn = {name: source.count for name, source in sources.items() if source.count is not None}
    whole = 297_940 + 238_557 + 40_688 + 2_118 + 18_265 + 1_280 + 2_434 + 1_030
    assert sum(drawn.values()) + whole == 768_312  # 766.4K as listed, where each part is rounded to thousands


def test_without_sam_no_image_of_sam_is_drawn() -> None:
    spec = mix_spec(recipe(data__reconstruct__preset="croc1.5m-nosam"), "reconstruct")
    assert spec.sources[0].filter.not_image_prefixes == ("sam/",)
    assert len(spec.sources) == 9


def test_a_recipes_own_sources_are_laid_over_the_presets() -> None:
    changes = {"belle": {"fraction": 0.5}, "dolly": {"enabled": False}, "mine": {"path": "mine.jsonl"}}
    loaded = recipe(data__reconstruct={"kind": "mix", "preset": "croc1.5m", "sources": changes})
    spec = {source.name: source for source in mix_spec(loaded, "reconstruct").sources}
    assert (spec["belle"].count, spec["belle"].fraction) == (None, 0.5)
    assert "dolly" not in spec
    assert spec["mine"].path == Path("data/mine.jsonl")
    assert mix_name(loaded, "reconstruct") == "croc-7b-reconstruct"


def test_a_resolved_recipe_describes_the_same_mix(tmp_path: Path) -> None:
    sources = {"belle": {"seed": 3}}
    loaded = recipe(data__reconstruct={"kind": "mix", "preset": "croc1.5m", "sources": sources})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(loaded))
    again = load_resolved(tmp_path / "recipe.yaml")
    assert mix_spec(again, "reconstruct") == mix_spec(loaded, "reconstruct")


def test_flags_reach_into_sources() -> None:
    overrides = {"data.reconstruct.sources.belle.count": ("7", "--set")}
    loaded = load_recipe("croc-7b", overrides=overrides, environ={}).recipe
    assert recipe_sources(loaded, "reconstruct")["belle"].count == 7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "mix"}, "data.finetune has no sources"),
        ({"kind": "mix", "preset": "croc15m"}, "unknown preset 'croc15m'"),
        ({"kind": "mix", "sources": {"a": {"path": "a", "count": 1, "fraction": 0.5}}}, "count and fraction are given"),
        ({"kind": "mix", "sources": {"coco-train2017": {}}}, "coco-train2017 has images alone, no rows"),
        ({"kind": "mix", "sources": {"alpca": {}}}, "unknown source 'alpca'"),
        ({"kind": "llava_json", "path": "a", "image_folder": "b"}, "is of kind llava_json, so there is no mix"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mix_spec(recipe(data__finetune=data), "finetune")


def test_a_misspelt_key_of_a_source_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: nano\ndata:\n  finetune:\n    kind: mix\n    sources:\n"
        "      mine: {path: a, cout: 5}\n      other: {path: b, count: true}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "mine.yaml"), environ={})
    assert "mine.yaml:6: data.finetune.sources.mine.cout: unknown key; did you mean count?" in caught.value.message
    assert "mine.yaml:7: data.finetune.sources.other.count: must be a whole number above 0" in caught.value.message


def test_a_preset_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: [lcs558k]\nsources:\n  mine: {path: mine.jsonl}\n")
    loaded = recipe(data__finetune={"kind": "mix", "preset": str(tmp_path / "mine.yaml")})
    assert [source.name for source in mix_spec(loaded, "finetune").sources] == ["lcs558k", "mine"]
    (tmp_path / "mine.yaml").write_text("sources:\n  mine: {pth: mine.jsonl}\n")
    with pytest.raises(RecipeError, match=r"mine\.yaml:2: sources\.mine\.pth"):
        read_preset(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text(f"extends: [{tmp_path}/mine.yaml]\n")
    with pytest.raises(RecipeError, match="extends goes in a circle"):
        read_preset(str(tmp_path / "mine.yaml"))


def test_training_wants_the_mix_that_the_recipe_describes(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [text_row(number) for number in range(9)])
    loaded = own(tmp_path)
    with pytest.raises(UsageError, match=r"data\.finetune: there is no mix .*croc-7b-finetune yet") as caught:
        check_data(loaded, "finetune")
    assert "`croc data mix croc-7b --stage finetune`" in (caught.value.hint or "")
    build_mix(mix_spec(loaded, "finetune"), mix_folder(loaded, "finetune"))
    check_data(loaded, "finetune")
    with pytest.raises(UsageError, match="was made of other sources, counts or seeds"):
        check_data(own(tmp_path, count=5), "finetune")


def test_victors_mixes_are_made_of_the_hubs_parquet_files(tmp_path: Path) -> None:
    cell = {"bytes": encoded(picture()), "path": "a.jpg"}
    caption = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A dog runs."}]
    said = [{"from": "human", "value": "Two?\n<image>"}, {"from": "gpt", "value": "Yes."}]
    alone = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]
    rows = {"recap-cc3m": [(caption, cell)], "llava-next-779k": [(said, cell), (alone, None)]}
    found = {}
    for stage, preset in (("reconstruct", "recap-cc3m"), ("finetune", "llava-next-779k")):
        table = [{"id": str(n), "conversations": c, "image": i} for n, (c, i) in enumerate(rows[preset])]
        file = tmp_path / str(find_source(preset).annotation) / "train-00000-of-00001.parquet"
        file.parent.mkdir()
        parquet.write_table(pyarrow.Table.from_pylist(table), file)
        data = {f"data__{stage}": {"kind": "mix", "preset": preset}, "data__root": str(tmp_path)}
        spec = mix_spec(recipe(**data), stage)  # type: ignore[arg-type]  # a stage's name
        build_mix(spec, tmp_path / "mixes" / preset)
        mix = MixFolder(tmp_path / "mixes" / preset)
        mixed = [json.loads(mix.read(position))["conversations"] for position in range(len(mix))]
        found[preset] = {tuple(turn["value"] for turn in turns) for turns in mixed}
    assert found["recap-cc3m"] == {
        ("<image>\nPlease generate detailed descriptions of the given image.", "A dog runs.")
    }
    assert found["llava-next-779k"] == {("Two?\n<image>", "Yes."), ("1 + 1?", "2")}


@pytest.mark.parametrize(
    ("preset", "rows"),
    [("recap-cc3m", 2_860_000), ("llava-next-779k", 779_289), ("croc1.5m", 1_547_851), ("croc1.5m-nosam", None)],
)
def test_a_mix_has_the_rows_that_recipe_and_catalogue_list(preset: str, rows: int | None) -> None:
    assert listed_rows(recipe(data__finetune={"kind": "mix", "preset": preset}), "finetune") == rows
