"""Draws and orders rows by hash, so that both depend on a row's own key and a seed, and on nothing beside it."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def row_keys(rows: "npt.NDArray[np.uint32]", *, purpose: str, seed: int, source: str) -> "npt.NDArray[np.uint64]":
    """Return one 64-bit hash for each row: SplitMix64 of its index, started from a hash of seed and source.

    Args:
        rows: Row indices in the source.
        purpose: Keeps draws and orders of one seed apart.
        seed: Of the draw or the order.
        source: The source's name.
    """
    import numpy as np

    digest = hashlib.sha256(repr((purpose, seed, source)).encode()).digest()
    start = np.uint64(int.from_bytes(digest[:8], "little"))
    with np.errstate(over="ignore"):
        keys = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = keys ^ (keys >> np.uint64(31))
    return mixed


def draw(rows: "npt.NDArray[np.uint32]", count: int, *, seed: int, source: str) -> "npt.NDArray[np.intp]":
    """Return the positions of `count` rows, ascending; a smaller draw is part of a larger one."""
    import numpy as np

    keys = row_keys(rows, purpose="draw", seed=seed, source=source)
    return np.sort(np.argsort(keys, kind="stable")[:count])
