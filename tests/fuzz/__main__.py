"""Tries hostile inputs on croc for as long as asked: `python -m tests.fuzz --minutes 60`."""

import argparse
import sys
import time

from tests.fuzz.driver import open_driver
from tests.fuzz.groups import Tally, groups, run_group

TURN_SECONDS = 20.0
"""Groups take turns of this length, so that a run that is ended early has tried something of each."""


def main() -> int:
    """Run the groups in turns; print each failure as it comes, then tried and answered of each group."""
    known = groups()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, all groups together")
    parser.add_argument("--seed", type=int, default=None, help="try this seed alone, once; default: the day's seeds")
    parser.add_argument("--group", choices=sorted(known), action="append", help="try this group alone; repeatable")
    asked = parser.parse_args()
    names = asked.group or sorted(known)
    first = int(time.time()) // 86400 * 100_000 if asked.seed is None else asked.seed
    tallies = {name: Tally(next_seed=first) for name in names}
    end = time.monotonic() + asked.minutes * 60
    with open_driver() as driver:
        while True:
            for name in names:
                total = tallies[name]
                seconds = min(TURN_SECONDS, max(0.0, end - time.monotonic()))
                once = {"seconds": asked.minutes * 60, "max_seeds": 1} if asked.seed is not None else {}
                turn = run_group(
                    driver,
                    name,
                    known[name],
                    **{"seed": total.next_seed, "seconds": seconds, **once},  # type: ignore[arg-type]
                )
                for failure in turn.failures:
                    print(failure, flush=True)
                total.tried += turn.tried
                total.failures += turn.failures
                total.next_seed = turn.next_seed
            if asked.seed is not None or time.monotonic() >= end:
                break
    print(f"{'group':<14}{'tried':>9}{'answered':>10}   seeds {first} to", flush=True)
    for name, total in tallies.items():
        print(f"{name:<14}{total.tried:>9,}{total.tried - len(total.failures):>10,}   {total.next_seed - 1}")
    return 1 if any(total.failures for total in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
