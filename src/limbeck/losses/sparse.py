"""Storages that hold a part of each distribution: the likeliest classes, drawn ones, labels."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.losses.divergences import FLOOR
from limbeck.losses.offer import Offer
from limbeck.losses.storages import Outcomes, wide


@dataclass(frozen=True, slots=True)
class TopK:
    """The likeliest k classes of each row with their log-probabilities under the whole softmax, and the rest as one tail.

    ``ids``: int [..., k]. ``log_probabilities``: [..., k], nats, at temperature 1. An id of -1 is no class.
    """

    offers: ClassVar[Offer] = Offer.OUTCOMES

    ids: Tensor
    log_probabilities: Tensor
    classes: int

    @property
    def rows(self) -> torch.Size:
        """The leading dimensions."""
        return self.ids.shape[:-1]

    @property
    def shape(self) -> torch.Size:
        """See `Storage.shape`."""
        return torch.Size((*self.rows, self.classes))

    @property
    def carrier(self) -> Tensor:
        """See `Storage.carrier`."""
        return self.log_probabilities

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        ids, logs = (one.flatten(0, -2)[places] for one in (self.ids, self.log_probabilities))
        return replace(self, ids=ids, log_probabilities=logs)

    def cut(self, classes: int) -> Self:
        """See `Storage.cut`."""
        return replace(self, ids=torch.where(self.ids < classes, self.ids, -1), classes=classes)

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Self:
        """See `Storage.chunk`."""
        return replace(self, ids=self.ids[start:stop], log_probabilities=self.log_probabilities[start:stop])

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; the k classes and the tail."""
        _demand_one(temperature)
        ids, known = self.ids[start:stop].long(), wide(self.log_probabilities[start:stop]).clamp_min(FLOOR)
        known = torch.where(ids >= 0, known, FLOOR)
        p = known.exp()
        rest = (1 - p.sum(-1, keepdim=True)).clamp_min(0)
        tail = rest.clamp_min(torch.finfo(rest.dtype).tiny).log()
        return Outcomes(torch.cat([known, tail], -1), torch.cat([p, rest], -1), ids, tail=True)


@dataclass(frozen=True, slots=True)
class Sampled:
    """Classes drawn from each row's distribution, with how often each was drawn: unbiased means under the teacher.

    ``ids``: int [..., n], each class once; unused places have a count of 0. ``counts``: int [..., n]. ``entropy``: of the whole
    distribution, nats, [...]. ``log_probabilities``: of each class under the whole softmax, nats, at temperature 1, [..., n].
    Without either a forward KL is known up to a constant; its gradient is the same with any of them. Where both are known
    ``log_probabilities`` is read: the variance of ``log p - log q`` is 0 where both are equal, and minus the entropy, though
    exact, leaves that of ``log q``. Anshumann et al. 2025 (arXiv:2503.16870).
    """

    offers: ClassVar[Offer] = Offer.EXPECTATIONS

    ids: Tensor
    counts: Tensor
    classes: int
    entropy: Tensor | None = None
    log_probabilities: Tensor | None = None

    @property
    def rows(self) -> torch.Size:
        """The leading dimensions."""
        return self.ids.shape[:-1]

    @property
    def weights(self) -> Tensor:
        """What each class stands for, float32 [..., n]; they sum to 1."""
        counts = self.counts.float()
        return counts / counts.sum(-1, keepdim=True).clamp_min(1)

    @property
    def shape(self) -> torch.Size:
        """See `Storage.shape`."""
        return torch.Size((*self.rows, self.classes))

    @property
    def carrier(self) -> Tensor:
        """See `Storage.carrier`."""
        return self.counts

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        flat = replace(
            self,
            ids=self.ids.flatten(0, -2),
            counts=self.counts.flatten(0, -2),
            entropy=None if self.entropy is None else self.entropy.flatten(),
            log_probabilities=None if self.log_probabilities is None else self.log_probabilities.flatten(0, -2),
        )
        return flat._rows(places)

    def cut(self, classes: int) -> Self:
        """See `Storage.cut`."""
        return replace(self, counts=torch.where(self.ids < classes, self.counts, 0), classes=classes)

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Self:
        """See `Storage.chunk`."""
        return self._rows(slice(start, stop))

    def _rows(self, which: Tensor | slice) -> Self:
        """Some rows of [N]."""
        return replace(
            self,
            ids=self.ids[which],
            counts=self.counts[which],
            entropy=None if self.entropy is None else self.entropy[which],
            log_probabilities=None if self.log_probabilities is None else self.log_probabilities[which],
        )

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; means under them are unbiased. ``log_p`` is each class's own, or minus the entropy, or 0."""
        _demand_one(temperature)
        own = self.chunk(start, stop)
        weights = own.weights
        if own.log_probabilities is not None:
            known = torch.where(own.counts > 0, wide(own.log_probabilities).clamp_min(FLOOR), FLOOR)
        elif own.entropy is not None:
            known = -own.entropy.float()[:, None].expand_as(weights)
        else:
            known = torch.zeros_like(weights)
        return Outcomes(known, weights, own.ids.long().clamp_min(0), weighted=True)


@dataclass(frozen=True, slots=True)
class Given:
    """Labels as distributions: class ``ids``, int64 [...], has all the probability; where that is negative, none has any."""

    offers: ClassVar[Offer] = Offer.EXPECTATIONS

    ids: Tensor
    classes: int

    @property
    def rows(self) -> torch.Size:
        """The leading dimensions."""
        return self.ids.shape

    @property
    def shape(self) -> torch.Size:
        """See `Storage.shape`."""
        return torch.Size((*self.rows, self.classes))

    @property
    def carrier(self) -> Tensor:
        """See `Storage.carrier`."""
        return self.ids

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        return replace(self, ids=self.ids.flatten()[places])

    def cut(self, classes: int) -> Self:
        """See `Storage.cut`."""
        return replace(self, classes=classes)

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Self:
        """See `Storage.chunk`."""
        return replace(self, ids=self.ids[start:stop])

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; labels are the same at any temperature."""
        ids = self.ids[start:stop, None]
        p = (ids >= 0).float()
        return Outcomes(torch.zeros_like(p), p, ids.clamp_min(0), weighted=True)


@dataclass(frozen=True, slots=True)
class Even:
    """Every class alike, in each of ``rows``: what labels are smoothed with (Szegedy et al. 2016, arXiv:1512.00567)."""

    offers: ClassVar[Offer] = Offer.ROWS

    like: Tensor
    classes: int

    @property
    def rows(self) -> torch.Size:
        """The leading dimensions."""
        return self.like.shape

    @property
    def shape(self) -> torch.Size:
        """See `Storage.shape`."""
        return torch.Size((*self.rows, self.classes))

    @property
    def carrier(self) -> Tensor:
        """See `Storage.carrier`."""
        return self.like

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        return replace(self, like=self.like.flatten()[places])

    def cut(self, classes: int) -> Self:
        """See `Storage.cut`."""
        return replace(self, classes=classes)

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Self:
        """See `Storage.chunk`."""
        return replace(self, like=self.like[start:stop])

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; the mean of ``log_p`` is 0, so that a forward KL is the cross-entropy."""
        p = self.like.new_full((1, 1), 1 / self.classes, dtype=torch.float32).expand(stop - start, self.classes)
        return Outcomes(torch.zeros_like(p), p, weighted=True)


def _demand_one(temperature: float) -> None:
    if temperature != 1:
        raise SignalError(
            f"These logits are stored at temperature 1, and the objective asks for {temperature:g}: a part of a distribution "
            "cannot be softened. Leave temperature at 1, or store whole rows."
        )
