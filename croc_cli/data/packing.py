"""Packs the samples of an optimizer step into rows, so that hardly any place of a micro-batch is padding.

A sample is never cut, and so no image is. Rows are found by first fit decreasing; the capacity is then lowered as far
as the same number of rows allows (MULTIFIT: Coffman, Garey and Johnson, 1978), so that all rows, and all ranks, have
about as much to do.

Letters: B rows of a micro-batch · T tokens of a row · S samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from croc_cli.data.conversation import EncodedConversation
from croc_cli.sources.read.json_rows import DataError


class Packing(NamedTuple):
    """Which tokens of a micro-batch's rows belong together. What fills a row up counts as one more sample.

    Args:
        position_ids: [B, T] int64, the position of each token in its sample; 0 begins the next sample.
        boundaries: [S + 1] int32, where samples begin, counted through the rows, and where the last one ends.
        longest: Tokens of the longest sample, or of what fills up a row.
    """

    position_ids: Tensor
    boundaries: Tensor
    longest: int


class RowLimit(NamedTuple):
    """How long rows may be.

    Args:
        tokens: Of a row at most.
        key: The recipe's key that says so, for messages.
    """

    tokens: int
    key: str

    def lengths(self, ids: Sequence[str], encoded: Sequence[EncodedConversation]) -> list[int]:
        """Return the tokens of each sample.

        Args:
            ids: Of the samples.
            encoded: Their conversations.

        Raises:
            DataError: A sample is longer than a row; says which.
        """
        lengths = [len(one.input_ids) for one in encoded]
        longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
        if longest is not None and lengths[longest] > self.tokens:
            stage, length = self.key.partition(".")[0], lengths[longest]
            raise DataError(
                f"sample {ids[longest]} has {length:,} tokens, more than a row of {self.key} = {self.tokens:,}",
                hint=f"--set {self.key}={length}, or --set {stage}.max_length={self.tokens} to cut such samples",
            )
        return lengths


def pack_rows(lengths: Sequence[int], *, row_tokens: int, multiple: int) -> list[list[int]]:
    """Pack samples into as few rows as first fit decreasing finds.

    Args:
        lengths: Tokens of each sample, `row_tokens` at most.
        row_tokens: Tokens that a row has room for.
        multiple: The number of rows is a multiple of it, such as the ranks.

    Returns:
        For each row its samples, ascending; the fullest rows first. The last ones may hold none.
    """
    num_rows = round_up(max(1, len(first_fit(lengths, row_tokens))), multiple)
    low, high = max(lengths, default=0), row_tokens  # the upper end fits
    while low < high:
        middle = (low + high) // 2
        if len(first_fit(lengths, middle)) <= num_rows:
            high = middle
        else:
            low = middle + 1
    rows = [sorted(row) for row in first_fit(lengths, high)]
    rows.sort(key=lambda row: (-sum(lengths[sample] for sample in row), row))
    return rows + [[] for _ in range(num_rows - len(rows))]


def deal_rows(rows: Sequence[list[int]], *, rank: int, num_ranks: int, micro_size: int) -> list[list[list[int]]]:
    """Return the rows of each of a rank's micro-batches, the last of which may have fewer.

    All ranks have as many rows, and rows that are about as full at a time.

    Args:
        rows: Of all ranks, a multiple of their number.
        rank: This rank.
        num_ranks: All ranks.
        micro_size: Rows of a micro-batch at most.
    """
    own = rows[rank::num_ranks]
    return [list(own[start : start + micro_size]) for start in range(0, len(own), micro_size)]


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return rows of samples, the longest samples first, each in the first row that has room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for sample in sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample)):
        row = next((number for number, free in enumerate(room) if free >= lengths[sample]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(sample)
        room[row] -= lengths[sample]
    return rows


def round_up(number: int, multiple: int) -> int:
    """Return the least multiple that is not below a number."""
    return -(-number // multiple) * multiple


def describe_packing(lengths: Sequence[int], *, sizes: Sequence[int], length: int) -> Packing:
    """Return which tokens belong together.

    Args:
        lengths: Tokens of each sample, row by row.
        sizes: Samples of each row.
        length: T.
    """
    following = iter(lengths)
    rows = [[next(following) for _ in range(size)] for size in sizes]
    counts = [tokens for row in rows for tokens in (*row, length - sum(row)) if tokens]
    positions = np.concatenate([np.arange(tokens) for tokens in counts])
    return Packing(
        position_ids=torch.from_numpy(positions.reshape(len(rows), length)),
        boundaries=torch.from_numpy(np.cumsum([0, *counts], dtype=np.int32)),
        longest=max(counts),
    )
