import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from croc_cli.recipe.load import load_recipe
from tests.commands.croc import croc


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a LLaVA JSON and its pictures, and a folder of pictures with a table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    rows = []
    for number in range(4):
        Image.new("RGB", (40, 30), (number * 50, 90, 20)).save(f"pictures/train/{number}.png")
        Image.new("RGB", (40, 30), (number * 50, 20, 90)).save(f"photos/{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": f"picture {number}"}]
        rows.append({"id": str(number), "image": f"train/{number}.png", "conversations": turns})
    rows.append({"id": "text", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]})
    Path("my.json").write_text(json.dumps(rows))
    with Path("photos/metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text"], *([f"{n}.png", f"photo {n}"] for n in range(4))])
    return tmp_path


def test_it_writes_ten_lines_that_load_and_says_what_to_type_next(project: Path) -> None:
    answer = croc("init", "--data", "my.json", "--like", "nano", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert answer.out == "croc data verify mine.yaml\ncroc plan mine.yaml\ncroc run mine.yaml\n"
    text = (project / "mine.yaml").read_text()
    assert len(text.splitlines()) <= 12
    assert "# 5 rows: 4 with an image, 1 of text alone" in text
    recipe = load_recipe("mine.yaml", environ={}).recipe
    assert recipe.name == "mine"
    for stage in ("align", "reconstruct", "finetune"):
        assert getattr(recipe.data, stage).path == "my.json"
        assert getattr(recipe.data, stage).image_folder == "pictures"
    assert recipe.launch.device == "cpu"
    for command in answer.out.splitlines()[:1]:
        assert croc(*command.split()[1:]).code == 0


def test_a_folder_of_pictures_with_a_table_becomes_a_mix(project: Path) -> None:
    answer = croc("init", "photos.yaml", "--data", "photos", "--like", "nano", "--ranks", "2")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0] == "croc data mix photos.yaml"
    recipe = load_recipe("photos.yaml", environ={}).recipe
    assert recipe.launch.num_ranks == 2
    assert recipe.align.batch.micro_size == 8
    mixed = croc("data", "mix", "photos.yaml", "--dry-run")
    assert mixed.code == 0, mixed.err


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("--data", "nosuch.json"), "--data nosuch.json: does not exist", "LLaVA JSON"),
        (("--data", "my.json", "--images", "photos"), "--images photos: train/0.png is not in it", "--images pictures"),
        (("--data", "my.json", "--images", "nosuch"), "--images nosuch: does not exist", "name the folder"),
        (("--data", "my.json", "--like", "nnao"), "no recipe named 'nnao'", "did you mean nano?"),
        (("--data", "my.json", "--device", "gpu"), "--device gpu: unknown device", "did you mean cuda?"),
        (
            ("mine.json", "--data", "my.json"),
            "mine.json: a recipe's file ends in .yaml",
            "`croc init mine.yaml --data my.json`",
        ),
        ((), "croc init needs --data PATH", "--data PATH names the data"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_written(
    project: Path, arguments: tuple[str, ...], error: str, hint: str
) -> None:
    before = sorted(project.iterdir())
    answer = croc("init", *arguments)
    assert answer.code == 2
    assert error in answer.err
    assert hint in answer.err
    assert sorted(project.iterdir()) == before


def test_a_recipe_that_is_there_is_replaced_with_force_only(project: Path) -> None:
    (project / "mine.yaml").write_text("name: old\n")
    answer = croc("init", "--data", "my.json", "--like", "nano")
    assert answer.code == 2
    assert "mine.yaml already exists" in answer.err
    assert croc("init", "--data", "my.json", "--like", "nano", "--force").code == 0
    assert "extends: nano" in (project / "mine.yaml").read_text()


def test_no_file_of_the_users_is_written_over_or_through(project: Path) -> None:
    Path("mine.trial.yaml").write_text("mine")
    Path("link.yaml").symlink_to("nowhere.yaml")
    Path("folder.yaml").mkdir()
    given = ("--data", "my.json", "--like", "nano", "--device", "cpu")
    for name, force in (("link.yaml", ()), ("link.yaml", ("--force",)), ("folder.yaml", ("--force",))):
        answer = croc("init", name, *given, *force)
        assert (answer.code, name in answer.err) == (2, True), answer.err
    assert not Path("nowhere.yaml").exists()
    assert croc("init", "mine.yaml", *given).code == 0
    assert Path("mine.trial.yaml").read_text() == "mine"
    assert sorted(path.name for path in project.glob("*.yaml")) == [
        *("folder.yaml", "link.yaml", "mine.trial.yaml", "mine.yaml"),
    ]


def test_a_file_name_with_a_line_end_writes_no_key_of_its_own(project: Path) -> None:
    answer = croc("init", "a\nname: x.yaml", "--data", "my.json", "--like", "nano")
    assert answer.code == 2
    assert "control characters" in answer.err
