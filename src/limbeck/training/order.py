"""The order of data: a pure function of (seed, step, rank). Nothing is drawn, so nothing can be lost on resume."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limbeck.config import digest
from limbeck.data.batch import REAL, Batch
from limbeck.data.examples import Examples


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

    Args:
        rows: int64 [n], the rows to go through.
        batch_size: rows a step, over all ranks and micro-batches.
        seed: of the permutations.
        views: distinct views a row, used in turn; None for a new one every epoch; 0 for none, the row as it is.
    """

    rows: Tensor
    batch_size: int
    seed: int
    views: int | None = None

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids and views of a whole step, int64 [batch_size]."""
        count = len(self.rows)
        place, ids, views = step * self.batch_size, [], []
        left = self.batch_size
        while left:
            epoch, offset = divmod(place, count)
            part = self.rows[_permutation(count, self.seed, epoch)[offset : offset + left]]
            ids.append(part)
            views.append(torch.full_like(part, self.view(epoch)))
            place, left = place + len(part), left - len(part)
        return torch.cat(ids), torch.cat(views)

    def view(self, epoch: int) -> int:
        """The view of every row in this epoch."""
        if self.views is None:
            return epoch + 1
        return epoch % self.views + 1 if self.views else 0


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
        # its own generator: making an iterator draws from the global one otherwise, and a resumed run would differ
        own = torch.Generator().manual_seed(0)
        yield from DataLoader(
            self,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            generator=own,
        )
