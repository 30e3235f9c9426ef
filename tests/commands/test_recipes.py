from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from croc_cli.commands.recipes import recipes_app
from croc_cli.errors import RecipeError

runner = CliRunner()


def test_list_names_each_recipe_and_groups_the_ablations() -> None:
    lines = runner.invoke(recipes_app, ["list"]).stdout.splitlines()
    assert lines[0].startswith("croc-13b ")
    assert "ablations:" in lines
    assert any(line.startswith("ablations/pool-size-1 ") and "Table 4a" in line for line in lines)


def test_show_prints_yaml_with_what_was_set() -> None:
    result = runner.invoke(recipes_app, ["show", "nano", "--set", "reconstruct.pool.size=64"])
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout)["reconstruct"]["pool"]["size"] == 64
    assert "# --set" in result.stdout
    assert "\x1b" not in result.stdout


def test_check_says_ok_on_stdout_and_notes_on_stderr() -> None:
    result = runner.invoke(recipes_app, ["check", "ablations/pool-size-1"])
    assert result.stdout == "ok: recipes/ablations/pool-size-1.yaml\n"
    assert result.stderr.startswith("note: reconstruct.pool.size: 1 is smaller than the 432 masked tokens")


def test_check_raises_what_is_wrong_for_the_boundary(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("extends: nano\nalgin: {}\n")
    result = runner.invoke(recipes_app, ["check", str(path)])
    assert isinstance(result.exception, RecipeError)
    assert result.exception.message.endswith("bad.yaml:2: algin: unknown key; did you mean align?")
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["list", "show", "check"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: croc recipes {command}" in runner.invoke(recipes_app, [command, "--help"]).stdout
