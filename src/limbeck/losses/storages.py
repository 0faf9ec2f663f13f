"""Storages of logits: how much of a distribution is there, and how its rows are read.

What a storage **offers** is compared with what a divergence **reads** before step 0. The leading dimensions are those of the
batch, [B, T] or [N] once rows were chosen; V is the number of classes.
"""

from dataclasses import dataclass, replace
from math import inf, log
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from limbeck.losses.divergences import FLOOR, distributions, log_probabilities
from limbeck.losses.offer import Offer


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What is known of the distributions of some rows: ``log_p`` and ``p`` of their outcomes, [n, O].

    ``ids``: int64 [n, O], which classes they are; None: all, in order. ``tail``: whether one more outcome stands after those of
    ``ids``, all the other classes together. ``weighted``: whether ``p`` are the weights of a mean of ``log_p - log_q``, as of
    draws and labels, and no exponentials of ``log_p``: only a forward KL is known.
    """

    log_p: Tensor
    p: Tensor
    ids: Tensor | None = None
    tail: bool = False
    weighted: bool = False


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

    @property
    def shape(self) -> torch.Size:
        """The leading dimensions and V."""
        ...

    @property
    def carrier(self) -> Tensor:
        """The tensor that carries its graph, if there is one."""
        ...

    def at(self, places: Tensor) -> Self:
        """The rows at ``places``, int64 [N], counted over all leading dimensions."""
        ...

    def cut(self, classes: int) -> Self:
        """The same of the first so many classes; the others are a vocabulary's padding, which no token is."""
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
        logits = wide(logits)
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

    @property
    def shape(self) -> torch.Size:
        """See `Storage.shape`."""
        return torch.Size((*self.rows, self.classes))

    @property
    def carrier(self) -> Tensor:
        """See `Storage.carrier`."""
        return self.logits

    @property
    def source(self) -> tuple[Tensor, Head | None]:
        """What logits are made of, and by what; None: they are there."""
        return self.logits, None

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        return replace(self, logits=self.logits.flatten(0, -2)[places])

    def cut(self, classes: int) -> Self:
        """See `Storage.cut`."""
        return replace(self, logits=self.logits[..., :classes])

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> "Dense":
        """See `Storage.chunk`."""
        return Dense(self.logits[start:stop])

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; every class."""
        logits = wide(self.logits[start:stop])
        softened = logits if temperature == 1 else logits / temperature
        if softened.requires_grad:
            log_p = log_probabilities(softened)
            return Outcomes(log_p, log_p.exp())
        return Outcomes(*distributions(softened))


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

    @property
    def shape(self) -> torch.Size:
        """See `Storage.shape`."""
        return torch.Size((*self.rows, self.classes))

    @property
    def carrier(self) -> Tensor:
        """See `Storage.carrier`."""
        return self.hidden

    @property
    def source(self) -> tuple[Tensor, Head | None]:
        """What logits are made of, and by what; None: they are there."""
        return self.hidden, self.head

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        return replace(self, hidden=self.hidden.flatten(0, -2)[places])

    def cut(self, classes: int) -> Self:
        """See `Storage.cut`."""
        bias = None if self.head.bias is None else self.head.bias[:classes]
        return replace(self, head=replace(self.head, weight=self.head.weight[:classes], bias=bias))

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Dense:
        """See `Storage.chunk`; the head is applied to all rows at once."""
        return Dense(self.head(self.hidden[start:stop], room))

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; every class."""
        return self.chunk(start, stop).outcomes(0, stop - start, temperature)


def stored(logits: "Tensor | Storage") -> "Storage":
    """A tensor of logits as a storage; a storage as it is."""
    return Dense(logits) if isinstance(logits, Tensor) else logits


def carrier(signal: "Tensor | Storage") -> Tensor:
    """A signal, or the tensor that carries the graph of one in a storage."""
    return signal if isinstance(signal, Tensor) else signal.carrier


def whole(logits: Any) -> Tensor:
    """Every logit, [..., V], of a tensor, a `Dense` or a `Chunked`: for few rows."""
    if isinstance(logits, Tensor):
        return logits
    tensor, head = logits.source
    found: Tensor = tensor if head is None else head(tensor)
    return found


@torch.no_grad()
def judged(logits: "Storage", labels: Tensor, block: int = 2**24) -> Tensor:
    """What is said of the right answers, float32 [N, 4]: their log-probability in nats, whether they are the likeliest, the
    probability of the likeliest, and its class. ``labels``: int64 [N]. No more than ``block`` logits are made at once. Of a tail
    each class has an even share.
    """
    rows, found = max(1, block // logits.classes), [torch.empty(0, 4, device=labels.device)]
    for start in range(0, len(labels), rows):
        own = labels[start : start + rows]
        known = logits.chunk(start, start + len(own)).outcomes(0, len(own))
        if known.ids is None:
            top, at = known.log_p.max(-1)
            right = known.log_p.gather(-1, own.clamp_min(0)[:, None])[:, 0]
        else:
            top, place = known.log_p[:, : known.ids.shape[1]].max(-1)
            at, here = known.ids.gather(1, place[:, None])[:, 0], known.ids == own[:, None]
            others = log(max(1, logits.classes - known.ids.shape[1]))
            each = known.log_p[:, -1] - others if known.tail else torch.full_like(top, FLOOR)
            right = torch.where(here.any(1), torch.where(here, known.log_p[:, : here.shape[1]], -inf).amax(1), each)
        found.append(torch.stack([right, (at == own).to(top), top.exp(), at.to(top)], -1).float())
    return torch.cat(found)


def wide(logits: Tensor) -> Tensor:
    """At least float32, in which distributions are computed."""
    return logits if logits.dtype == torch.float64 else logits.float()
