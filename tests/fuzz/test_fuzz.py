import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.case import Case
from tests.fuzz.driver import Driver, open_driver
from tests.fuzz.groups import groups, run_group

SECONDS_IN_ALL = 10.0
GROUPS = groups()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with open_driver() as driver:
        yield driver


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_hostile_inputs_are_answered_in_one_line(driver: Driver, group: str) -> None:
    tally = run_group(driver, group, GROUPS[group], seed=0, seconds=SECONDS_IN_ALL / len(GROUPS))

    assert tally.tried
    assert not tally.failures, "\n".join(map(str, tally.failures))


def test_the_driver_tells_what_is_wrong(driver: Driver) -> None:
    def make_link(folder: Path) -> None:
        (folder / "link").symlink_to("/nowhere")

    wrong = [
        (Case(commands=(("recipes", "list"),), allowed=frozenset({2})), "exit code 0, allowed are [2]"),
        (Case(commands=(("recipes", "list"),), check=lambda answer, _: "no!" if "nano" in answer.out else None), "no!"),
        (Case(commands=(("recipes", "list"),), setup=make_link), None),
    ]
    for case, reason in wrong:
        failures = driver.run(case, "group, seed 7, case 0")
        assert [failure.reason for failure in failures] == ([reason] if reason else [])
        assert all("seed 7" in str(failure) for failure in failures)


def test_a_change_outside_the_output_folder_a_hang_and_a_crash_are_failures(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = Case(commands=(("recipes", "list"),), seconds=0.0001)
    failures = driver.run(stays, "group, seed 7, case 0")
    assert [failure.reason for failure in failures] == ["takes more than 0.0001 s of CPU time"]

    def change(_answer: object, folder: Path) -> str | None:
        (folder.parent / "beside").write_text("")
        return None

    twice = Case(commands=(("recipes", "list"), ("recipes", "list")), check=change)
    failures = driver.run(twice, "group, seed 7, case 0")
    assert [failure.reason for failure in failures] == ["changed outside its output folder: beside"]

    os.kill(driver._started().pid, 11)
    failures = driver.run(Case(commands=(("recipes", "list"),)), "group, seed 7, case 0")
    assert [failure.reason for failure in failures] == ["the process died with -11"]
