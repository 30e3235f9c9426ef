from pathlib import Path
from typing import Any

import pytest

from croc_cli.data.dataset import LlavaJsonDataset
from croc_cli.files import own_path
from croc_cli.launch.plan import count_samples
from croc_cli.launch.requirements import check_data
from croc_cli.recipe.paths import data_path
from croc_cli.sources.mix.recipe_mix import mix_folder, mix_spec
from croc_cli.worker.build import build_dataset
from tests.launch.make import recipe
from tests.sources.data import image_row, write_json


def test_a_path_starts_where_croc_is_run_and_else_in_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "root" / "both").mkdir(parents=True)
    (tmp_path / "root" / "below").mkdir()
    (tmp_path / "both").mkdir()
    assert data_path("root", "both") == Path("both")
    assert data_path("root", "below") == Path("root/below")
    assert data_path("root", "nowhere") == Path("nowhere")
    assert data_path("root", "~/x") == tmp_path / "home" / "x"
    assert data_path("root", "/x") == Path("/x")
    assert own_path("~nosuchuser-at-all/x") == Path("~nosuchuser-at-all/x")


@pytest.mark.parametrize("place", [".", "root", "~"])
def test_every_kind_of_data_follows_the_rule(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / ("home" if place == "~" else place)
    write_json(folder / "rows.json", [image_row(0)])
    (folder / "images").mkdir()
    (folder / "mixes" / "own").mkdir(parents=True)
    before = "~/" if place == "~" else ""
    source = {"path": f"{before}rows.json", "image_root": f"{before}images"}
    changes: dict[str, Any] = {
        "data__root": "root",
        "data__align": {"kind": "llava_json", "path": f"{before}rows.json", "image_folder": f"{before}images"},
        "data__finetune": {"kind": "mix", "path": f"{before}mixes/own", "sources": {"mine": source}},
    }
    loaded = recipe("nano", **changes)
    check_data(loaded, "align")
    assert count_samples(loaded, "align") == 1
    dataset = build_dataset(loaded, "align")
    assert isinstance(dataset, LlavaJsonDataset)
    assert dataset.image_folder.resolve() == folder / "images"
    [spec] = mix_spec(loaded, "finetune").sources
    assert spec.image_root is not None
    assert (spec.path.resolve(), spec.image_root.resolve()) == (folder / "rows.json", folder / "images")
    assert mix_folder(loaded, "finetune").resolve() == folder / "mixes" / "own"
