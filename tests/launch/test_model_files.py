"""A model's folder is looked into before any launch: what is missing or damaged is named, with exit code 2."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.launch.model_files import check_model_files
from croc_cli.launch.model_sources import check_model
from tests.tiny import make_tiny_parts


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_parts(tmp_path_factory.mktemp("parts"))[1]


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "model.safetensors is damaged or cut short"),
    "pointer": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        "model.safetensors is a git-lfs pointer",
    ),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is empty"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights: neither"),
    "a shard": (shards, "lacks 1 of 2 shards: model-00002-of-00002.safetensors"),
    "an index that leaves": (
        lambda folder: index(folder, {"a": "../model.safetensors"}),
        "lists '../model",
    ),
    "an index of lists": (lambda folder: index(folder, {"a": [1]}), r"lists \[1\], expected files"),
    "an index of nothing": (lambda folder: index(folder, []), "lists no weight_map"),
    "a pipe": (pipe, "holds no config.json"),
    "no tokenizer": (without_tokenizer, "holds no tokenizer"),
    "no type": (lambda folder: (folder / "config.json").write_text("{}"), "config.json names no model_type"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
    "no object": (lambda folder: (folder / "config.json").write_text("[]"), "config.json is not a JSON object"),
}


def test_whole_parts_pass(llm: Path) -> None:
    check_model(str(llm), part="llm")
    check_model(str(llm.with_name("tower")), part="vision_tower")


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_missing_or_damaged_is_named(damage: str, llm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llm, tmp_path / "llm"))
    spoil, words = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(UsageError, match=words) as caught:
        check_model(str(folder), part="llm")
    assert caught.value.message.startswith("model.llm: ")
    assert caught.value.hint


def test_a_tower_of_another_kind_is_refused(llm: Path) -> None:
    with pytest.raises(UsageError, match="is of type 'llama', expected a CLIP or SigLIP vision tower"):
        check_model(str(llm), part="vision_tower")


def test_shards_that_are_all_there_and_pickled_weights_pass(llm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llm, tmp_path / "llm"))
    shards(folder)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
    check_model_files(folder, part="llm")
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    check_model_files(folder, part="llm")
