"""What each teacher of an ensemble counts: the same for every row, by the domain that a row is from, or by what it says."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from limbeck.config import digest
from limbeck.data.batch import DOMAIN, Batch
from limbeck.data.examples import Examples
from limbeck.errors import LimbeckError, SignalError, nearest


class Weighing(Protocol):
    """Weights of K teachers, row by row. ``hears``: it weighs what they say; else who counts nothing in a row is not asked."""

    hears: ClassVar[bool]

    @property
    def fingerprint(self) -> str | None:
        """Names all that the weights depend on but the batch; None where they move."""
        ...

    def of(self, batch: Batch, said: Sequence[Tensor] = ()) -> Tensor:
        """Float32 [B, K] on the batch's device; none is negative, and a row's sum is 1.

        ``said``: where it hears, each teacher's logits, K of float32 [B, C].
        """
        ...


class Fixed:
    """The same for every row: K numbers of any sum above 0.

    Raises:
        LimbeckError: one is negative, or all are 0.
    """

    hears: ClassVar[bool] = False

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = shares(weights)

    @property
    def fingerprint(self) -> str:
        """The weights."""
        return digest(["fixed", self.weights.tolist()])

    def of(self, batch: Batch, said: Sequence[Tensor] = ()) -> Tensor:
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

    hears: ClassVar[bool] = False

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

    def of(self, batch: Batch, said: Sequence[Tensor] = ()) -> Tensor:
        """See `Weighing.of`.

        Raises:
            SignalError: the rows have no domain.
        """
        if DOMAIN not in batch.labels:
            raise SignalError(
                "The ensemble's weights are by domain, and these rows have none: it can teach the recipe's own data alone."
            )
        return self.weights.to(batch.ids.device)[batch.labels[DOMAIN]]


class ByConfidence:
    """By how sure each is of its answer: in proportion to exp(-H), H being the entropy of its distribution in nats.

    Who is sure of everything counts most, right or wrong: a teacher that is too sure needs a temperature above 1 first, see
    `limbeck.teachers.calibrated`.
    """

    hears: ClassVar[bool] = True

    @property
    def fingerprint(self) -> str:
        """Its name."""
        return "by confidence"

    def of(self, batch: Batch, said: Sequence[Tensor] = ()) -> Tensor:
        """See `Weighing.of`."""
        logs = torch.stack([torch.log_softmax(one, -1) for one in said], 1)
        return torch.softmax(torch.special.entr(logs.exp()).sum(-1).neg(), -1)


class ByCorrectness:
    """By how likely each finds the label, where the student may see it; all alike elsewhere.

    ``(1 - exp(CE_k) / sum_j exp(CE_j)) / (K - 1)`` (CA-MKD: Zhang et al. 2022, arXiv:2201.00007), CE in nats at temperature 1.

    Args:
        examples: those that are learnt from: labels are looked up here and nowhere else.

    Raises:
        LimbeckError: rows are mixed, and have two labels.
    """

    hears: ClassVar[bool] = True

    def __init__(self, examples: Examples) -> None:
        self._labels = _Labels(examples, "'weights: correctness' looks")
        self._fingerprint = digest(["by correctness", examples.fingerprint])

    @property
    def fingerprint(self) -> str:
        """The rows, and which labels are seen: stored answers of other labels are not read."""
        return self._fingerprint

    def of(self, batch: Batch, said: Sequence[Tensor] = ()) -> Tensor:
        """See `Weighing.of`."""
        labels, seen = self._labels.of(batch)
        costs = [-torch.log_softmax(one, -1).gather(1, labels[:, None])[:, 0] for one in said]
        if len(costs) == 1:
            return torch.ones(len(batch), 1, device=batch.ids.device)
        found = (1 - torch.softmax(torch.stack(costs, 1), -1)) / (len(costs) - 1)
        return found.where(seen[:, None], 1 / len(costs))


class ByClass:
    """All that counts in a row is who knows its class; where no label may be seen, all alike.

    Args:
        groups: of each of K teachers the classes that it knows, by number; none is known by two.
        examples: those that are learnt from, where labels are looked up; see `ByCorrectness`.

    Raises:
        LimbeckError: rows are mixed, and have two labels.
    """

    hears: ClassVar[bool] = False

    def __init__(self, groups: Sequence[Sequence[int]], examples: Examples) -> None:
        self._shares = torch.full((len(examples.classes) + 1, len(groups)), 1 / len(groups))  # the last: no label
        for place, group in enumerate(groups):
            self._shares[list(group)] = nn.functional.one_hot(torch.tensor(place), len(groups)).float()
        self._labels = _Labels(examples, "teachers of some classes each look")
        self._fingerprint = digest(["by class", [list(group) for group in groups], examples.fingerprint])

    @property
    def fingerprint(self) -> str:
        """The classes of each, and which labels are seen."""
        return self._fingerprint

    def of(self, batch: Batch, said: Sequence[Tensor] = ()) -> Tensor:
        """See `Weighing.of`."""
        labels, seen = self._labels.of(batch)
        return self._shares.to(labels.device)[labels.where(seen, -1)]


class _Labels:
    """The labels that may be learnt from, looked up by row: those of a test part, which a batch of it holds, are never seen."""

    def __init__(self, examples: Examples, who: str) -> None:
        if examples.mixup:
            raise LimbeckError(
                f"{who[:1].upper()}{who[1:]} up the label of a row, and with mixup a row has two: leave one of them out."
            )
        self._examples = examples
        self._seen = torch.zeros(len(examples.labels), dtype=torch.bool)
        self._seen[examples.rows] = examples.supervised[examples.rows]

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each row's label, int64 [B], and whether it is seen, bool [B], on the batch's device."""
        ids = batch.ids.cpu()
        known = (ids >= 0) & (ids < len(self._seen))
        ids = ids.where(known, 0)
        seen = known & self._seen[ids]
        if not self._examples.keep_labels:
            seen &= ~self._examples.table.altered(ids, batch.views.cpu())
        device = batch.ids.device
        return self._examples.labels[ids].clamp_min(0).to(device), seen.to(device)


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
