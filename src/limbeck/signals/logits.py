"""Storages of logits: how much of a distribution is there, and how its rows are read.

What a storage **offers** is compared with what a divergence **reads** before step 0. The leading dimensions are those of the
batch, [B, T] or [N] once rows were chosen; V is the number of classes.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from limbeck.errors import SignalError
from limbeck.losses.divergences import FLOOR, log_probabilities
from limbeck.losses.offer import Offer

__all__ = ["Chunked", "Dense", "Given", "Head", "Offer", "Outcomes", "Sampled", "Storage", "TopK"]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What is known of the distributions of some rows: ``log_p`` and ``p`` of their outcomes, [n, O].

    ``ids``: int64 [n, O], which classes they are; None: all, in order. ``tail``: whether one more outcome stands after those of
    ``ids``, all the other classes together.
    """

    log_p: Tensor
    p: Tensor
    ids: Tensor | None = None
    tail: bool = False


class Storage(Protocol):
    """Logits of a batch, or what is known of them."""

    offers: ClassVar[Offer]

    @property
    def classes(self) -> int:
        """V."""
        ...

    @property
    def rows(self) -> torch.Size:
        """The leading dimensions."""
        ...

    def at(self, places: Tensor) -> Self:
        """The rows at ``places``, int64 [N], counted over all leading dimensions."""
        ...

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> "Storage":
        """Rows ``start`` to ``stop`` of [N], with all that can be read of them. ``room``: float32 [stop - start, V] to use."""
        ...

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """What is known of rows ``start`` to ``stop`` of [N], softened by a temperature.

        Raises:
            SignalError: it is not known at that temperature.
        """
        ...


@dataclass(frozen=True, slots=True)
class Head:
    """What makes logits of hidden states: ``softcap * tanh(scale * (h W^T + b) / softcap)``.

    ``weight``: [V, d]. ``bias``: [V]. ``softcap``: as in Gemma 2; None: none.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def __call__(self, hidden: Tensor, room: Tensor | None = None) -> Tensor:
        """[..., d] to [..., V]. ``room``: float32 [n, V], used where that saves memory; without a graph only."""
        weight = self.weight.to(hidden.dtype)
        if room is not None and hidden.dtype == room.dtype and hidden.ndim == 2:
            logits = torch.mm(hidden, weight.t(), out=room)
            logits = logits if self.bias is None else logits.add_(self.bias)
            logits = logits if self.scale == 1 else logits.mul_(self.scale)
            return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)
        logits = linear(hidden, weight, None if self.bias is None else self.bias.to(hidden.dtype))
        logits = _wide(logits)
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def back(self, slope: Tensor, logits: Tensor | None) -> Tensor:
        """The gradient of the product with the weight, in the place of that of the logits; these are needed for a softcap."""
        if self.softcap is not None and logits is not None:
            slope.mul_(logits.div_(self.softcap).square_().neg_().add_(1))
        return slope if self.scale == 1 else slope.mul_(self.scale)


@dataclass(frozen=True, slots=True)
class Dense:
    """Every logit, [..., V]."""

    offers: ClassVar[Offer] = Offer.MATRIX

    logits: Tensor

    @property
    def classes(self) -> int:
        """V."""
        return self.logits.shape[-1]

    @property
    def rows(self) -> torch.Size:
        """The leading dimensions."""
        return self.logits.shape[:-1]

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        return replace(self, logits=self.logits.flatten(0, -2)[places])

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> "Dense":
        """See `Storage.chunk`."""
        return Dense(self.logits[start:stop])

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; every class."""
        logits = _wide(self.logits[start:stop])
        log_p = log_probabilities(logits if temperature == 1 else logits / temperature)
        return Outcomes(log_p, log_p.exp())


@dataclass(frozen=True, slots=True)
class Chunked:
    """Hidden states [..., d] and the head that makes logits of them, a block of rows at a time."""

    offers: ClassVar[Offer] = Offer.ROWS

    hidden: Tensor
    head: Head

    @property
    def classes(self) -> int:
        """V."""
        return self.head.weight.shape[0]

    @property
    def rows(self) -> torch.Size:
        """The leading dimensions."""
        return self.hidden.shape[:-1]

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        return replace(self, hidden=self.hidden.flatten(0, -2)[places])

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Dense:
        """See `Storage.chunk`; the head is applied to all rows at once."""
        return Dense(self.head(self.hidden[start:stop], room))

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; every class."""
        return self.chunk(start, stop).outcomes(0, stop - start, temperature)


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

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        ids, logs = (one.flatten(0, -2)[places] for one in (self.ids, self.log_probabilities))
        return replace(self, ids=ids, log_probabilities=logs)

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Self:
        """See `Storage.chunk`."""
        return replace(self, ids=self.ids[start:stop], log_probabilities=self.log_probabilities[start:stop])

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; the k classes and the tail."""
        _demand_one(temperature)
        ids, known = self.ids[start:stop].long(), self.log_probabilities[start:stop].float().clamp_min(FLOOR)
        known = torch.where(ids >= 0, known, FLOOR)
        p = known.exp()
        rest = (1 - p.sum(-1, keepdim=True)).clamp_min(0)
        tail = rest.clamp_min(torch.finfo(rest.dtype).tiny).log()
        return Outcomes(torch.cat([known, tail], -1), torch.cat([p, rest], -1), ids, tail=True)


@dataclass(frozen=True, slots=True)
class Sampled:
    """Classes drawn from each row's distribution, with how often each was drawn: unbiased means under the teacher.

    ``ids``: int [..., n], each class once; unused places have a count of 0. ``counts``: int [..., n]. ``entropy``: of the whole
    distribution, nats, [...]; without it a forward KL is known up to a constant, and its gradient wholly.
    Anshumann et al. 2025 (arXiv:2503.16870).
    """

    offers: ClassVar[Offer] = Offer.EXPECTATIONS

    ids: Tensor
    counts: Tensor
    classes: int
    entropy: Tensor | None = None

    @property
    def rows(self) -> torch.Size:
        """The leading dimensions."""
        return self.ids.shape[:-1]

    @property
    def weights(self) -> Tensor:
        """What each class stands for, float32 [..., n]; they sum to 1."""
        counts = self.counts.float()
        return counts / counts.sum(-1, keepdim=True).clamp_min(1)

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        ids, counts = (one.flatten(0, -2)[places] for one in (self.ids, self.counts))
        return replace(
            self, ids=ids, counts=counts, entropy=None if self.entropy is None else self.entropy.flatten()[places]
        )

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Self:
        """See `Storage.chunk`."""
        entropy = None if self.entropy is None else self.entropy[start:stop]
        return replace(self, ids=self.ids[start:stop], counts=self.counts[start:stop], entropy=entropy)

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; means under them are unbiased, and that of ``log_p`` is minus the entropy if that is known."""
        _demand_one(temperature)
        weights = self.chunk(start, stop).weights
        entropy = torch.zeros_like(weights[:, 0]) if self.entropy is None else self.entropy[start:stop].float()
        return Outcomes(-entropy[:, None].expand_as(weights), weights, self.ids[start:stop].long().clamp_min(0))


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

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        return replace(self, ids=self.ids.flatten()[places])

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Self:
        """See `Storage.chunk`."""
        return replace(self, ids=self.ids[start:stop])

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; labels are the same at any temperature."""
        ids = self.ids[start:stop, None]
        p = (ids >= 0).float()
        return Outcomes(torch.zeros_like(p), p, ids.clamp_min(0))


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _demand_one(temperature: float) -> None:
    if temperature != 1:
        raise SignalError(
            f"These logits are stored at temperature 1, and the objective asks for {temperature:g}: a part of a distribution "
            "cannot be softened. Leave temperature at 1, or store whole rows."
        )
