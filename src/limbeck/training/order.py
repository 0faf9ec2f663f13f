"""The order of data: a pure function of (seed, step, rank). Nothing is drawn, so nothing can be lost on resume."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.config import digest
from limbeck.data.batch import REAL, Batch
from limbeck.data.examples import Examples
from limbeck.errors import DataError
from limbeck.training.ahead import read_ahead

_WINDOW: Final = 50
"""Steps whose rows are sorted together, at most, and a quarter of an epoch: else the same texts would meet in every epoch."""


def derived(seed: int, *names: object) -> int:
    """A seed for one purpose, 63 bits, independent of every other purpose's."""
    return int(digest([seed, [str(name) for name in names]])[:16], 16) >> 1


@lru_cache(maxsize=4)  # the epochs at hand: thousands of steps ask for each
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(derived(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


@dataclass(frozen=True)
class Order:
    """Which rows, under which views, each step reads: one stream of whole epochs, each its own permutation.

    A row that comes several times in an epoch is seen under its next view each time, where there are so many.

    Args:
        rows: int64 [n], the rows to go through.
        batch_size: rows a step, over all ranks and micro-batches.
        seed: of the permutations.
        views: distinct views a row, used in turn; None for a new one every epoch; 0 for none, the row as it is.
        lengths: int64 [n], of each of ``rows``: those of like lengths come in one step. None: whatever their lengths.
    """

    rows: Tensor
    batch_size: int
    seed: int
    views: int | None = None
    lengths: Tensor | None = None
    _arranged: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, examples: Examples, batch_size: int, seed: int, views: int | None, by_length: bool = False) -> Self:
        """The order of these examples; ``by_length``: texts of like lengths together, as the student reads them.

        Raises:
            DataError: they have no lengths.
        """
        texts = examples.table.texts
        if by_length and texts is None:
            raise DataError(
                "'group-by-length: true' is for texts, and this data holds none: leave it out of 'training'."
            )
        lengths = texts.lengths("student")[examples.rows] if by_length and texts is not None else None
        return cls(examples.rows, batch_size, seed, views, lengths)

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids and views of a whole step, int64 [batch_size]."""
        count = len(self.rows)
        place, ids, views = step * self.batch_size, [], []
        left = self.batch_size
        while left:
            epoch, offset = divmod(place, count)
            places = self._places(epoch)[offset : offset + left]
            part = self.rows[places]
            ids.append(part)
            views.append(self._views(epoch, places))
            place, left = place + len(part), left - len(part)
        return torch.cat(ids), torch.cat(views)

    def _places(self, epoch: int) -> Tensor:
        """The places in ``rows`` in the order of an epoch."""
        count = len(self.rows)
        places = _permutation(count, self.seed, epoch)
        if self.lengths is None:
            return places
        if epoch not in self._arranged:
            if len(self._arranged) > 1:  # a step reads two at most
                self._arranged.clear()
            begun = -epoch * count % self.batch_size  # fill the step that the epoch before began
            generator = torch.Generator().manual_seed(derived(self.seed, "groups", epoch))
            own = _grouped(places[begun:], self.lengths, self.batch_size, generator)
            self._arranged[epoch] = torch.cat([places[:begun], own])
        return self._arranged[epoch]

    def _views(self, epoch: int, places: Tensor) -> Tensor:
        if self._copies is None or not self.views:
            return torch.full_like(places, self.view(epoch))
        copy, times = (one[places] for one in self._copies)
        return (epoch * times + copy) % self.views + 1

    @cached_property
    def _copies(self) -> tuple[Tensor, Tensor] | None:
        """Of each place in ``rows``: how many before it are of the same row, and how many there are; None: all are different."""
        _, row, counts = torch.unique(self.rows, return_inverse=True, return_counts=True)
        if len(counts) == len(self.rows):
            return None
        order, firsts = row.argsort(stable=True), counts.cumsum(0) - counts
        copy = torch.empty_like(order)
        copy[order] = torch.arange(len(order)) - firsts[row[order]]
        return copy, counts[row]

    def view(self, epoch: int) -> int:
        """The view of every row in this epoch."""
        if self.views is None:
            return epoch + 1
        return epoch % self.views + 1 if self.views else 0


def _grouped(places: Tensor, lengths: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The same places, sorted by length within windows, and then in whole steps in any order."""
    found, most = [], max(1, min(_WINDOW, len(places) // (4 * size)))
    for window in torch.split(places, most * size):
        steps = torch.split(window[lengths[window].argsort(stable=True)], size)
        whole = len(window) // size  # what is left comes last, as a part of a step
        found += [steps[one] for one in torch.randperm(whole, generator=generator).tolist()] + list(steps[whole:])
    return torch.cat(found) if found else places


@dataclass(frozen=True)
class Steps(Dataset[list[Batch]]):
    """The micro-batches of one rank for any step."""

    examples: Examples
    order: Order
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __getitem__(self, step: int) -> list[Batch]:
        ids, views = self.order.step(step)
        share = -(-len(ids) // (self.accumulate * self.world))
        batches = []
        for micro in range(self.accumulate):
            first = (micro * self.world + self.rank) * share
            mine, seen = ids[first : first + share], views[first : first + share]
            missing = share - len(mine)
            if missing:  # a short rank repeats a row that counts for nothing
                mine, seen = torch.cat([mine, ids[:1].expand(missing)]), torch.cat([seen, views[:1].expand(missing)])
            batch = self.examples.batch(mine, seen)
            if missing:
                batch.masks[REAL][share - missing :] = False
            batches.append(batch)
        return batches

    def iterate(self, first: int, last: int, workers: int = 0) -> Iterator[list[Batch]]:
        """The steps ``first`` to ``last - 1``, read ahead by ``workers`` processes."""
        if not workers:
            yield from (self[step] for step in range(first, last))
            return
        yield from read_ahead(self, range(first, last), workers)
