"""Weights that find themselves, and the type of all weights."""

from math import exp, log
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.objective.schedules import (
    Cosine,
    Fixed,
    Linear,
    Place,
    Schedule,
    Steps,
    WarmUp,
    non_negative,
    number,
)
from limbeck.objective.together import processes, summed

_Positive = Annotated[float, Field(gt=0)]


class Uncertainty(Schedule):
    """A weight exp(-s) whose s is trained, with s / 2 added to the loss (Kendall, Gal & Cipolla 2018, arXiv:1705.07115).

    The weight stays below ``largest``: a term that can reach zero would drive it to infinity.
    """

    schedule: Literal["uncertainty"]
    start: _Positive = 1.0
    """The weight at first."""
    largest: _Positive = 20.0
    """What the weight stays below."""

    def at(self, place: Place) -> float:
        """1: what the trained weight is multiplied with."""
        return 1.0

    @property
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""
        return (0.0, self.largest)

    def build(self) -> nn.Module:
        """The trained s."""
        return LogVariance(min(self.start, 0.999 * self.largest), self.largest)


class LogVariance(nn.Module):
    """s = -log(largest) + softplus(raw), so that it has a gradient wherever it is."""

    def __init__(self, start: float, largest: float) -> None:
        super().__init__()
        self.floor = -log(largest)
        above = -log(start) - self.floor
        self.raw = nn.Parameter(torch.tensor(log(exp(above) - 1)))

    def forward(
        self, mean: Tensor, other: Tensor | None, signal: Tensor, place: Place, share: float | Tensor = 1.0
    ) -> Tensor:
        """The weighted term, a scalar. ``share``: of the step's examples that are in ``mean``, so that s counts once."""
        s = self.floor + F.softplus(self.raw)
        return torch.exp(-s) * mean + share * s / 2


class GradientNorm(Schedule):
    """A weight at which the term pulls at the signal it reads ``ratio`` times as hard as another term does.

    Both gradients are taken at the student's signal ``where``, or the one that this term reads first (its logits, or the layer
    that it matches), of the unweighted means; their quotient is averaged over steps. A cheap form of GradNorm (Chen et al. 2018,
    arXiv:1711.02257), without its rates of training.
    """

    schedule: Literal["gradient-norm"]
    ratio: _Positive = 1.0
    """How hard, as a multiple of the other term's pull."""
    against: str = "labels"
    """The other term, by its name in the objective; of several tasks ``labels of TASK``."""
    where: Annotated[str | None, Field(exclude_if=lambda where: where is None)] = None
    """The student's signal at which both pulls are measured, such as the last layer that several tasks share; null: the one that
    this term reads."""
    every: Annotated[int, Field(ge=1)] = 10
    """Steps between two measurements."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the old quotient that a measurement keeps."""

    def at(self, place: Place) -> float:
        """1: what the measured weight is multiplied with."""
        return 1.0

    @property
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""
        return (self.ratio,)

    def build(self) -> nn.Module:
        """The quotient so far."""
        return Pull(self)


class Pull(nn.Module):
    """Keeps the quotient of two gradient norms."""

    def __init__(self, settings: GradientNorm) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("quotient", torch.zeros((), dtype=torch.float64))

    def forward(
        self, mean: Tensor, other: Tensor | None, signal: Tensor, place: Place, share: float | Tensor = 1.0
    ) -> Tensor:
        """The weighted term, a scalar. Before the first measurement, and where nothing can be measured, the ratio weighs."""
        kept: Tensor = self.get_buffer("quotient")
        due = place.step % self.settings.every == 0 or not bool(kept)
        if self.training and due and other is not None and signal.requires_grad:
            found = self._measured(mean, other, signal)
            if found is not None:
                momentum = self.settings.momentum if bool(kept) else 0.0
                kept.mul_(momentum).add_((1 - momentum) * found)
        weight = self.settings.ratio * (kept if bool(kept) else torch.ones_like(kept))
        return weight.to(mean.dtype) * mean

    def _measured(self, mean: Tensor, other: Tensor, signal: Tensor) -> Tensor | None:
        squares = []
        for value in (other, mean):
            grad = (
                torch.autograd.grad(value, signal, retain_graph=True, allow_unused=True)[0]
                if value.requires_grad
                else None
            )
            squares.append(signal.new_zeros(()) if grad is None else grad.detach().square().sum())
        both = torch.stack(squares).double()
        both = (summed(both) if processes() > 1 else both).sqrt()
        return both[0] / both[1] if bool((both > 0).all()) and bool(both.isfinite().all()) else None


if TYPE_CHECKING:
    Weight = Fixed | Linear | Cosine | Steps | WarmUp | Uncertainty | GradientNorm
else:
    _Any = Annotated[Fixed | Linear | Cosine | Steps | WarmUp | Uncertainty | GradientNorm, Discriminator("schedule")]
    Weight = Annotated[_Any, BeforeValidator(number, json_schema_input_type=float | _Any), AfterValidator(non_negative)]
