"""Keys and values of answers that begin and end at different times.

Letters: B rows, G heads of keys, T columns in use, d size of a head.

transformers' caches hold sequences that began together. Here row r holds `lengths[r]` tokens from column 0 on, and
nothing that counts behind them. A row that comes is copied behind the others, a row that leaves is overwritten by the
last one; the others stay where they are.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

_COLUMN_STEP = 64
"""Columns are added so many at a time: adding one means to copy all."""


class RowsCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """A cache whose rows have lengths of their own; it takes one token a row at a time.

    Attributes:
        lengths: Tokens of each row.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=lambda: _RowsLayer(self))
        self.lengths: list[int] = []
        self.columns = torch.empty(0, dtype=torch.long)

    def add(self, read: DynamicCache, row: int, length: int) -> None:
        """Copy a row of another cache behind the rows: its last `length` columns."""
        while len(self.layers) < len(read.layers):
            self.layers.append(_RowsLayer(self))
        for layer, source in zip(self.layers, read.layers, strict=True):
            layer.put(len(self.lengths), source.keys[row, :, -length:], source.values[row, :, -length:])
        self.lengths.append(length)

    def remove(self, row: int) -> None:
        """Take a row out; the last row gets its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.layers:
                layer.move(last, row)
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self.layers.clear()

    def begin_step(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Make room for a token in every row.

        Returns:
            Which columns the tokens see, [B, T + 1] int64 of 0 and 1, and their positions, [B, 1] int64.
        """
        self.columns = torch.tensor(self.lengths, device=device)
        longest = max(self.lengths)
        for layer in self.layers:
            layer.reserve(len(self.lengths), longest + 1)
        mask = torch.arange(longest + 1, device=device) <= self.columns[:, None]
        return mask.long(), self.columns[:, None]

    def end_step(self) -> None:
        """Count the tokens that the step added."""
        self.lengths = [length + 1 for length in self.lengths]


class _RowsLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """One layer of a `RowsCache`; keys and values are [rows, G, columns, d] with some room to grow."""

    def __init__(self, cache: RowsCache) -> None:
        super().__init__()
        self._cache = cache
        self.is_initialized = False

    def put(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Write a row, [G, t, d] each."""
        if not self.is_initialized:
            self.keys, self.values = (one.new_zeros(0, one.shape[0], 0, one.shape[2]) for one in (keys, values))
            self.is_initialized = True
        length = keys.shape[1]
        self.reserve(row + 1, length)
        for held, new in ((self.keys, keys), (self.values, values)):
            held[row].zero_()  # what lay here may not be finite, and a masked NaN is still NaN
            held[row, :, :length] = new

    def move(self, row: int, to: int) -> None:
        """Copy a row over another."""
        for held in (self.keys, self.values):
            held[to] = held[row]

    def reserve(self, rows: int, columns: int) -> None:
        """Make room; more rows come twice as many at a time."""
        held_rows, held_columns = self.keys.shape[0], self.keys.shape[2]
        if rows <= held_rows and columns <= held_columns:
            return
        rows = held_rows if rows <= held_rows else max(rows, 2 * held_rows)
        columns = max(held_columns, -(-columns // _COLUMN_STEP) * _COLUMN_STEP)
        self.keys, self.values = (_grown(one, rows, columns) for one in (self.keys, self.values))

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values of one token a row, [B, G, 1, d] each, and return all, [B, G, T + 1, d] each."""
        columns = self._cache.columns
        rows = torch.arange(len(columns), device=columns.device)
        self.keys[rows, :, columns] = key_states[:, :, 0]
        self.values[rows, :, columns] = value_states[:, :, 0]
        end = self.get_seq_length() + 1
        return self.keys[: len(columns), :, :end], self.values[: len(columns), :, :end]

    def get_seq_length(self) -> int:
        """Return T, the tokens of the longest row."""
        return max(self._cache.lengths, default=0)


def _grown(held: Tensor, rows: int, columns: int) -> Tensor:
    grown = held.new_zeros(rows, held.shape[1], columns, held.shape[3])
    grown[: held.shape[0], :, : held.shape[2]] = held
    return grown
