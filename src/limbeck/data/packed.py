"""Rows of different lengths, one after another in flat tensors, and padded when a batch is read."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_STEP: Final = 8  # padded lengths are multiples of it, which suits the kernels


def padded_length(tokens: int) -> int:
    """To how many tokens a batch is padded whose longest row has so many."""
    return -(-tokens // _STEP) * _STEP


class Packed:
    """Where rows stand in flat tensors of all their tokens.

    Args:
        lengths: of each row.
        most: tokens that a padded row has at most.
    """

    def __init__(self, lengths: Sequence[int], most: int) -> None:
        self.lengths = torch.tensor(lengths, dtype=torch.int64)
        self._ends = torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])
        self._most = most

    @property
    def longest(self) -> int:
        """The padded length of the longest row; of none that of one token."""
        return self._width(self.lengths)

    def row(self, row: int) -> slice:
        """Where one row stands."""
        return slice(int(self._ends[row]), int(self._ends[row + 1]))

    def spread(self, flat: Tensor, rows: Tensor, fill: int, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Those of ``flat``, [tokens, ...], that are of ``rows``, [B, L, ...], and where they are, bool [B, L].

        ``rows``: int64 [B]. ``fill``: what stands in the padding, on the right. ``length``: L; by default as many as the longest
        of ``rows`` needs.
        """
        lengths = self.lengths[rows]
        place = torch.arange(self._width(lengths) if length is None else length)
        there = place < lengths[:, None]
        found = flat[(self._ends[rows, None] + place).where(there, 0)]
        return found.where(there.reshape(*there.shape, *(1,) * (found.ndim - 2)), fill), there

    def _width(self, lengths: Tensor) -> int:
        return min(padded_length(int(lengths.max()) if len(lengths) else 1), self._most)
