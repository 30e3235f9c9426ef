"""Keys of earlier versions are read as those of today, with a warning that names the new ones."""

from pathlib import Path

import pytest

from croc_cli.recipe.load import dump_recipe, load_recipe, load_resolved

EARLIER = """\
extends: nano
monitor:
  tensorboard: true
  wandb: {project: mine, team: us}
"""


def test_the_earlier_monitor_is_a_list_of_today_and_the_warning_says_how_to_write_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(EARLIER)
    loaded = load_recipe(str(file), environ={})
    assert loaded.recipe.monitor == ("tensorboard", "wandb")
    assert (loaded.recipe.tracking.project, loaded.recipe.tracking.team) == ("mine", "us")
    [warning] = loaded.warnings
    assert warning.endswith(
        "mine.yaml:3: earlier versions had monitor.tensorboard and monitor.wandb;"
        " write `monitor: [tensorboard, wandb]` and `tracking: {project: mine, team: us}`"
    )
    assert loaded.origins["tracking.project"].endswith("mine.yaml:4")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("monitor: {tensorboard: false}", ()),
        ("monitor: {wandb: null}", ()),
        ("monitor: {tensorboard: false, wandb: {project: p}}", ("wandb",)),
    ],
)
def test_what_was_switched_off_stays_off(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: nano\n{text}\n")
    assert load_recipe(str(file), environ={}).recipe.monitor == names


def test_variables_and_settings_of_the_earlier_form_are_read_too() -> None:
    loaded = load_recipe("nano", environ={"CROC_MONITOR__TENSORBOARD": "true"})
    assert loaded.recipe.monitor == ("tensorboard",)
    assert "CROC_MONITOR__TENSORBOARD: earlier versions had monitor.tensorboard" in loaded.warnings[0]
    loaded = load_recipe("nano", overrides={"monitor.wandb.project": ("p", "--set")}, environ={})
    assert (loaded.recipe.monitor, loaded.recipe.tracking.project) == (("wandb",), "p")
    assert not load_recipe("nano", environ={"CROC_MONITOR": '["trackio"]'}).warnings


def test_a_run_folders_recipe_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    text = dump_recipe(load_recipe("nano", environ={}).recipe)
    [line] = [line for line in text.splitlines() if line.startswith("monitor:")]
    tracking = text[text.index("tracking:") : text.index("runs_folder:")]
    file.write_text(text.replace(line, "monitor: {tensorboard: true, wandb: null}").replace(tracking, ""))
    assert load_resolved(file).monitor == ("tensorboard",)
