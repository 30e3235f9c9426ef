"""The groups of hostile inputs, and how they take turns."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.driver import Driver, Failure

Generator = Callable[[int], Iterator[Case]]
_NO_GROUPS = ("__init__", "__main__", "case", "driver", "groups", "worker")


def groups() -> dict[str, Generator]:
    """Return the generator of each group: every module of this folder that has `cases`."""
    names = sorted(file.stem for file in Path(__file__).parent.glob("*.py"))
    names = [name for name in names if name not in _NO_GROUPS and not name.startswith("test_")]
    modules = {name: import_module(f"tests.fuzz.{name}") for name in names}
    return {name: module.cases for name, module in modules.items() if hasattr(module, "cases")}


@dataclass
class Tally:
    """What came of a group.

    Args:
        tried: Commands that were tried.
        failures: Those that were answered wrongly.
        next_seed: The first seed that was not tried.
    """

    tried: int = 0
    failures: list[Failure] = field(default_factory=list)
    next_seed: int = 0


def run_group(
    driver: Driver, name: str, generator: Generator, *, seed: int, seconds: float, max_seeds: int | None = None
) -> Tally:
    """Run seed after seed until the time is over, and one case at least."""
    tally = Tally(next_seed=seed)
    end = time.monotonic() + seconds
    for current in count(seed):
        if max_seeds is not None and current >= seed + max_seeds:
            return tally
        for number, case in enumerate(generator(current)):
            found = driver.run(case, f"{name}, seed {current}, case {number}")
            tally.tried += len(case.commands)
            tally.failures += found
            if time.monotonic() > end:
                tally.next_seed = current + 1
                return tally
        tally.next_seed = current + 1
    return tally
