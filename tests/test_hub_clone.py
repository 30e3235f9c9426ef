from pathlib import Path

import pytest

from croc_cli.hub_clone import CloneError, choose_files, clone_files
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.readers import open_source
from croc_cli.sources.read.spec import SourceSpec


def clone(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def chosen(folder: Path, *splits: str, config: str | None = None) -> list[str]:
    files = choose_files(folder, clone_files(folder, ".parquet"), splits=splits, config=config)
    return [str(file.relative_to(folder)) for file in files]


@pytest.mark.parametrize(
    ("names", "splits", "config", "expected"),
    [
        (["data/train-0.parquet", "data/test-00000-of-00001.parquet"], ["test"], None, [1]),
        (["data/train-00000-of-00001-4fe2df04669d1669.parquet", "data/test-0.parquet"], ["train"], None, [0]),
        (["data/test-0.parquet", "data/testdev-0.parquet"], ["test"], None, [0]),
        (["data/test-0.parquet", "data/testdev-0.parquet"], ["testdev", "test"], None, [1]),
        (["A/val-0.parquet", "B/val-0.parquet"], ["val"], "B", [1]),
        (["A/val-0.parquet", "A/test-0.parquet", "B/train-0.parquet"], ["validation", "val"], None, [0]),
        (["A/validation/0000.parquet", "A/train/0000.parquet"], ["validation"], "A", [0]),
        (["default/test/0000.parquet", "default/test/0001.parquet"], ["test"], None, [0, 1]),
        (["mmstar.parquet"], ["val"], None, [0]),
        (["0000.parquet", "0001.parquet"], ["val"], "Some", [0, 1]),
        (["data/test-0.parquet", "Full/adversarial-0.parquet"], ["test"], None, [0]),
        (["data/train_sft-0.parquet", "data/test_sft-0.parquet"], ["train"], None, [0]),
    ],
)
def test_one_split_of_one_configuration_is_chosen(
    names: list[str], splits: list[str], config: str | None, expected: list[int], tmp_path: Path
) -> None:
    assert chosen(clone(tmp_path, *names), *splits, config=config) == [names[place] for place in expected]


@pytest.mark.parametrize(
    ("names", "config", "says"),
    [
        (["data/train-0.parquet"], None, r"has no files of the split val: it has data/train-0.parquet"),
        (
            ["A/train-0.parquet", "B/val-0.parquet"],
            "A",
            r"has no files of the split val of A: it has A/train-0.parquet",
        ),
        (["A/val-0.parquet", "B/val-0.parquet"], None, r"several configurations, and any of them could be meant: A, B"),
        (["A/val-0.parquet", "B/val-0.parquet"], "C", r"has no configuration C: it has A, B"),
        (["data/test-0.parquet", "extra.parquet"], None, r"has no files of the split val"),
    ],
)
def test_what_is_lacking_is_said(names: list[str], config: str | None, says: str, tmp_path: Path) -> None:
    with pytest.raises(CloneError, match=says) as caught:
        chosen(clone(tmp_path, *names), "val", config=config)
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.csv", "b.csv"], ["a.csv", "b.csv"]),
        (["train.csv", "test.csv"], ["train.csv"]),
        (["QA.CSV"], ["QA.CSV"]),
        (["data/train-0.csv", "data/validation-0.csv"], ["data/train-0.csv"]),
        (["default/train/0000.csv", "default/test/0000.csv"], ["default/train/0000.csv"]),
        (["ai2d/train-0.csv"], ["ai2d/train-0.csv"]),
        (["ai2d/train-0.csv", "docvqa/train-0.csv"], "several configurations"),
        (["data/test-0.csv", "data/validation-0.csv"], "no files of the split train"),
    ],
)
def test_a_folder_of_tables_gives_its_training_split(
    names: list[str], expected: list[str] | str, tmp_path: Path
) -> None:
    folder = clone(tmp_path / "own", *names)
    for name in names:
        (folder / name).write_text("question,answer\nWhat?,This.\n")
    spec = SourceSpec("own", folder)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            open_source(spec)
    else:
        assert [str(file.relative_to(folder)) for file in open_source(spec).files] == expected
