from pathlib import Path

import pytest

from croc_cli.launch.places import missing_places
from tests.launch.make import recipe


def test_what_is_not_there_is_named_with_the_path_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert missing_places(recipe("nano")) == []
    file = {"kind": "llava_json", "path": "rows.json", "image_folder": "images"}
    mix = {"kind": "mix", "sources": {"mine": {"path": "mine.csv", "image_root": "photos"}}}
    changes = {"data__align": file, "data__finetune": mix, "launch__hostfile": "hosts", "data__catalogs": ("own.yaml",)}
    found = missing_places(recipe("nano", **changes, model__llm="./llm"))
    assert found == [
        f"model.llm: there is no folder {tmp_path}/llm",
        f"data.catalogs: there is no file {tmp_path}/own.yaml",
        f"data.align.path: there is no file {tmp_path}/rows.json",
        f"data.align.image_folder: there is no folder {tmp_path}/images",
        f"data.finetune.sources.mine.path: there is nothing at {tmp_path}/data/mine.csv",
        f"data.finetune.sources.mine.image_root: there is no folder {tmp_path}/data/photos",
        f"data.finetune: there is no mix in {tmp_path}/data/mixes/nano-finetune yet;"
        " `croc data prepare nano --stage finetune` makes it",
        f"launch.hostfile: there is no file {tmp_path}/hosts",
    ]
