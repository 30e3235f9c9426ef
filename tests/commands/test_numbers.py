from collections.abc import Iterator
from typing import Any

import pytest
import typer

from croc_cli.commands.app import app
from tests.commands.croc import croc


def numbers(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for parameter in command.params:
        if parameter.type_descriptor.annotation in (int, float):
            yield " ".join((*path, parameter.opts[0])), parameter
    for name, inner in getattr(command, "commands", {}).items():
        yield from numbers(inner, (*path, name))


def test_every_number_on_the_command_line_has_a_range() -> None:
    found = dict(numbers(typer.main.get_command(app)))
    assert "align --seed" in found
    assert [name for name, parameter in found.items() if parameter.min is None or parameter.max is None] == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("ablate pool --seeds 99999999999", "error: --seeds 99999999999: must be at most 1000\n"),
        ("plan nano --gpu-memory 1e400GB", "error: --gpu-memory 1e400GB: no amount of memory of one GPU\n"),
        ("align nano --seed 18446744073709551617", "must be at most 9223372036854775807\n"),
        (
            "align nano --set align.seed=18446744073709551617",
            "align.seed: must be a whole number of 0 or more, at most",
        ),
        ("align nano --set align.max_steps=" + "9" * 5000, "error: --set: align.max_steps: must be"),
        ("align nano --set data.catalogs=" + "[" * 50_000, "data.catalogs: must be written as JSON"),
        ("align nano --set reconstruct" + ".a" * 5000 + "=1", "no key of a recipe has 5001 parts"),
        ("chat --temperature inf hello", "error: --temperature inf: must be at most 100"),
        ("plan nano --utilisation nan", "error: --utilisation nan: must be at most 1"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(command: str, message: str) -> None:
    answer = croc(*command.split(" "))
    assert answer.code == 2
    assert message in answer.err
    assert len(answer.err) < 1000


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
@pytest.mark.parametrize("value", ["y", "99999999999", "-1", "", "1.5"])
def test_a_variable_of_a_launcher_that_is_no_number_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for variable, usual in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(variable, usual)
    monkeypatch.setenv(name, value)
    answer = croc("align", "nano", "--dry-run")
    assert answer.code == 2
    assert answer.err.startswith(f"error: the variable {name} is {value!r}, and must be a whole number from ")
