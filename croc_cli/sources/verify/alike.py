"""Finds images that look alike among many, by perceptual hashes that differ in few bits."""

from collections import defaultdict

MOST_BITS = 6
"""Bits, of 64, in which the hashes of alike images differ at most."""
_BANDS = (0, 16, 32, 48)
_LONGEST = 64
"""Images compared for one band: even pictures share theirs with very many."""


class AlikeImages:
    """Takes images one by one and names an earlier one that looks alike.

    Hashes are compared where 16 bits in a row are equal; of two that differ in three bits or fewer that is always so.
    """

    def __init__(self) -> None:
        self._bands: dict[tuple[int, int], list[tuple[int, str]]] = defaultdict(list)

    def add(self, value: int, name: str) -> str | None:
        """Take an image's hash; return the name of an earlier image that looks alike, or None."""
        value &= (1 << 64) - 1
        alike = None
        for shift in _BANDS:
            known = self._bands[shift, value >> shift & 0xFFFF]
            for other, earlier in known:
                if alike is None and bin(value ^ other).count("1") <= MOST_BITS:
                    alike = earlier
            if len(known) < _LONGEST:
                known.append((value, name))
        return alike
