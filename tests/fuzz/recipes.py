"""Hostile recipes."""

import random
from collections.abc import Iterator

from tests.fuzz.case import Case

REFUSED = frozenset({2})


def cases(seed: int) -> Iterator[Case]:
    """Yield recipes that no YAML file should be."""
    rng = random.Random(seed)
    for _ in range(5):
        text = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        yield Case(files={"r.yaml": text}, commands=(("recipes", "check", "r.yaml"),), allowed=REFUSED, note="noise")
