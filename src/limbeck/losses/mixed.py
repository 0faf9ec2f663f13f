"""Several storages as one: the mean of what several teachers say, made a block of rows at a time."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.losses.divergences import FLOOR
from limbeck.losses.offer import Offer
from limbeck.losses.storages import Dense, Outcomes, Storage

Combine = Literal["probabilities", "logits"]


@dataclass(frozen=True, slots=True)
class Mixed:
    """The weighted mean of the probabilities of ``parts``, or of their logits (which is a product of powers of probabilities).

    ``weights``: float32 [..., K], what each part counts in each row; they sum to 1. Of a part that knows its likeliest classes
    alone, the others have an even share of the rest each.
    """

    offers: ClassVar[Offer] = Offer.ROWS

    parts: tuple[Storage, ...]
    weights: Tensor
    combine: Combine = "probabilities"

    @property
    def classes(self) -> int:
        """V, of the part that has the fewest: the others are padded."""
        return min(part.classes for part in self.parts)

    @property
    def rows(self) -> torch.Size:
        """The leading dimensions."""
        return self.weights.shape[:-1]

    @property
    def shape(self) -> torch.Size:
        """See `Storage.shape`."""
        return torch.Size((*self.rows, self.classes))

    @property
    def carrier(self) -> Tensor:
        """See `Storage.carrier`."""
        return self.parts[0].carrier

    def at(self, places: Tensor) -> Self:
        """See `Storage.at`."""
        parts = tuple(part.at(places) for part in self.parts)
        return replace(self, parts=parts, weights=self.weights.flatten(0, -2)[places])

    def cut(self, classes: int) -> Self:
        """See `Storage.cut`."""
        return replace(self, parts=tuple(part.cut(classes) for part in self.parts))

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Dense:
        """See `Storage.chunk`: log-probabilities at temperature 1, which are softened as any logits are."""
        weights = self.weights[start:stop].float()
        first = self._said(0, start, stop, weights)
        found = first if room is None else room.copy_(first)
        for place in range(1, len(self.parts)):
            said = self._said(place, start, stop, weights)
            found = found.add_(said) if self.combine == "logits" else torch.logaddexp(found, said, out=found)
        return Dense(torch.log_softmax(found, -1) if self.combine == "logits" else found.clamp_min_(FLOOR))

    def _said(self, place: int, start: int, stop: int, weights: Tensor) -> Tensor:
        """What one part adds, [n, V], a new tensor."""
        part, weight = self.parts[place], weights[:, place, None]
        own = part if part.classes == self.classes else part.cut(self.classes)
        known = every(own.chunk(start, stop).outcomes(0, stop - start), self.classes)
        return known * weight if self.combine == "logits" else known + weight.log()

    def outcomes(self, start: int, stop: int, temperature: float = 1.0) -> Outcomes:
        """See `Storage.outcomes`; every class."""
        return self.chunk(start, stop).outcomes(0, stop - start, temperature)


def every(known: Outcomes, classes: int) -> Tensor:
    """The log-probability of each class, [n, V], of what is known of some; an even share of a tail where nothing is.

    Raises:
        SignalError: means are known, and no probabilities.
    """
    if known.ids is None:
        return known.log_p
    if not known.tail:
        raise SignalError(
            "Draws say what a teacher says on average, and no probability of a class: they cannot be mixed with others."
        )
    there = known.ids >= 0
    others = (classes - there.sum(-1, keepdim=True)).clamp_min(1)
    spread = (known.log_p[:, -1:] - others.log()).clamp_min(FLOOR).expand(-1, classes).clone()
    # what is no class goes nowhere: a column more, which is cut off again
    wider = torch.cat([spread, spread.new_zeros(len(spread), 1)], 1)
    wider.scatter_(1, known.ids.where(there, classes), known.log_p[:, : known.ids.shape[1]])
    return wider[:, :classes]


def averaged(answers: list[Tensor], weights: Tensor, combine: Combine = "probabilities") -> Tensor:
    """Log-probabilities, or logits, of a weighted mean over the last dimension's choices.

    ``answers``: logits, K of [B, ..., C]. ``weights``: [B, K], each row's sum is 1.
    """
    shape = (len(weights), *(1,) * (answers[0].ndim - 1))
    found: Tensor | None = None
    for place, logits in enumerate(answers):
        weight = weights[:, place].to(logits.dtype).view(shape)
        if combine == "logits":
            said = logits * weight
            found = said if found is None else found + said
        else:
            said = torch.log_softmax(logits, -1) + weight.log()
            found = said if found is None else torch.logaddexp(found, said)
    assert found is not None
    return found if combine == "logits" else found.clamp_min(FLOOR)
