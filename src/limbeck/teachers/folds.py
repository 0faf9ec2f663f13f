"""Who of several teachers has not seen a row: cross-fitting."""

from typing import ClassVar

import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.data.batch import Batch
from limbeck.data.examples import Examples
from limbeck.data.fingerprint import tensors
from limbeck.errors import LimbeckError

_SEED = 0


class ByFold:
    """All that counts in a labelled row is the one teacher that was not trained on it; in other rows all count alike.

    A teacher repeats the labels of rows that it was trained on, and has little more to say of them. The labelled rows are shared
    out at random into K folds; teacher k is trained on all of them but fold k (cross-fitting: Dao et al. 2021, arXiv:2104.09732).

    Args:
        examples: those that are learnt from.
        count: K.

    Raises:
        LimbeckError: some fold would have no row, or rows are mixed: of two folds, every teacher has seen one.
    """

    hears: ClassVar[bool] = False

    def __init__(self, examples: Examples, count: int) -> None:
        rows = torch.unique(examples.labelled().rows)
        if len(rows) < count:
            raise LimbeckError(
                f"{len(rows):,} labelled rows cannot be shared out into {count} folds: give fewer folds."
            )
        if examples.mixup:
            raise LimbeckError(
                "With mixup a row is of two folds, and no teacher has seen neither: leave out data.mixup or teacher.folds."
            )
        self._count, self._folds = count, torch.full((len(examples.labels) + 1,), count)  # the last: unknown rows
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(_SEED))
        self._folds[rows[drawn]] = torch.arange(len(rows)) % count
        self._shares = torch.cat([torch.eye(count), torch.full((1, count), 1 / count)])

    @property
    def names(self) -> tuple[str, ...]:
        """What the teachers are called, by the fold that they have not seen."""
        return tuple(f"fold-{number}" for number in range(1, self._count + 1))

    @property
    def fingerprint(self) -> str:
        """The fold of every row."""
        return digest(["by fold", self._count, tensors({"folds": self._folds})])

    def seen(self, examples: Examples, fold: int) -> Tensor:
        """Of these examples' rows those that teacher ``fold`` is trained on: int64."""
        return examples.rows[self._folds[examples.rows] != fold]

    def of(self, batch: Batch, said: object = ()) -> Tensor:
        """See `limbeck.teachers.weighing.Weighing.of`."""
        ids = batch.ids.cpu()
        known = (ids >= 0) & (ids < len(self._folds))
        return self._shares[self._folds[ids.where(known, -1)]].to(batch.ids.device)
