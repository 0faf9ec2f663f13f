"""What each teacher of an ensemble counts: the same for every row, or by the domain that a row is from."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.data.batch import DOMAIN, Batch
from limbeck.errors import LimbeckError, SignalError, nearest


class Weighing(Protocol):
    """Weights of K teachers, row by row."""

    @property
    def fingerprint(self) -> str | None:
        """Names all that the weights depend on but the batch; None where they move."""
        ...

    def of(self, batch: Batch) -> Tensor:
        """Float32 [B, K] on the batch's device; none is negative, and a row's sum is 1."""
        ...


class Fixed:
    """The same for every row: K numbers of any sum above 0.

    Raises:
        LimbeckError: one is negative, or all are 0.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = shares(weights)

    @property
    def fingerprint(self) -> str:
        """The weights."""
        return digest(["fixed", self.weights.tolist()])

    def of(self, batch: Batch) -> Tensor:
        """See `Weighing.of`."""
        return self.weights.to(batch.ids.device).expand(len(batch), -1)


class ByDomain:
    """K numbers for each domain.

    Args:
        weights: by the name of a domain.
        names: of the data's domains, in the order of their numbers in a batch; None: the data names none.

    Raises:
        LimbeckError: the data has other domains; or as `Fixed`.
    """

    def __init__(self, weights: Mapping[str, Sequence[float]], names: Sequence[str] | None) -> None:
        if names is None:
            raise LimbeckError(
                "The ensemble's weights are by domain, and the data names no domains: write in data.source which column they "
                "are in, 'domain: COLUMN'; or give one list of weights."
            )
        if unknown := sorted(set(weights) - set(names)):
            hint = nearest(unknown[0], list(names), 1) or f"it has {', '.join(names[:12])}."
            raise LimbeckError(f"The ensemble has weights for the domain {unknown[0]!r}, and the data does not: {hint}")
        if lacking := [name for name in names if name not in weights]:
            raise LimbeckError(f"The ensemble has no weights for the domain {lacking[0]!r} of the data: add them.")
        self.names = tuple(names)
        self.weights = torch.stack([shares(weights[name]) for name in names])

    @property
    def fingerprint(self) -> str:
        """The weights, and the names in order."""
        return digest(["by domain", list(self.names), self.weights.tolist()])

    def of(self, batch: Batch) -> Tensor:
        """See `Weighing.of`.

        Raises:
            SignalError: the rows have no domain.
        """
        if DOMAIN not in batch.labels:
            raise SignalError(
                "The ensemble's weights are by domain, and these rows have none: it can teach the recipe's own data alone."
            )
        return self.weights.to(batch.ids.device)[batch.labels[DOMAIN]]


def shares(weights: Sequence[float]) -> Tensor:
    """Weights as shares of their sum, float32.

    Raises:
        LimbeckError: one is negative, or all are 0.
    """
    found = torch.tensor(list(weights), dtype=torch.float64)
    if not len(found) or bool((found < 0).any()) or not 0 < float(found.sum()) < float("inf"):
        raise LimbeckError(
            f"Weights of an ensemble are {list(weights)}: none may be negative, and one must be above 0."
        )
    return (found / found.sum()).float()
