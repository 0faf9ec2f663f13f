"""Temperatures: numbers, schedules, by the difficulty of an example, or learned; and shares, from 0 to 1."""

from math import cos, log, pi
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, model_validator
from torch import Tensor, nn

from limbeck.config import Config
from limbeck.losses.responses import entropy
from limbeck.objective.schedules import Cosine, Fixed, Linear, Place, Steps, WarmUp, number, positive, share


class ByDifficulty(Config):
    """One temperature an example, between ``easy`` and ``hard`` by how unsure the teacher is of it.

    The difficulty is the entropy of the teacher's distribution at T = 1, divided by that of the uniform one.
    """

    shared: ClassVar[bool] = False  # each example has its own
    schedule: Literal["by-difficulty"]
    easy: float
    """T where the teacher is certain."""
    hard: float
    """T where it knows nothing."""

    @property
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""
        return (self.easy, self.hard)

    def of(self, place: Place, teacher_logits: Tensor, part: nn.Module | None) -> Tensor:
        """T for each example, [...] for logits [..., C]."""
        difficulty = (entropy(teacher_logits.detach()) / log(teacher_logits.shape[-1])).clamp(0, 1)
        return self.easy + (self.hard - self.easy) * difficulty

    def build(self) -> nn.Module | None:
        """What it trains: nothing."""
        return None


class Learned(Config):
    """One temperature that is trained against the student, in a curriculum from easy to hard (CTKD, Li et al. 2023).

    T = low + (high - low) sigmoid(theta), with theta = 1 at first. The gradient for theta is multiplied with a factor that
    falls from 0 to -1 along half a cosine over the first ``rise`` of the training, and stays there (arXiv:2211.16231).
    """

    shared: ClassVar[bool] = False  # it follows its gradient, example by example
    schedule: Literal["learned"]
    low: float = 1.0
    high: float = 21.0
    rise: Annotated[float, Field(gt=0, le=1)] = 0.05
    """The share of the training after which theta is trained fully against the student."""

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self

    @property
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""
        return (self.low, self.high)

    def of(self, place: Place, teacher_logits: Tensor, part: nn.Module | None) -> Tensor:
        """T, a scalar that knows its gradient."""
        assert part is not None
        factor = -(1 - cos(pi * min(1.0, place.progress / self.rise))) / 2
        return self.low + (self.high - self.low) * torch.sigmoid(reversed_gradient(part.get_parameter("theta"), factor))

    def build(self) -> nn.Module | None:
        """Theta."""
        return _Theta()


class _Theta(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(()))


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * grads[0], None


def reversed_gradient(value: Tensor, factor: float) -> Tensor:
    """``value``, whose gradient is multiplied with ``factor``: at -1 what others descend, it ascends."""
    reversed_: Tensor = _Reversed.apply(value, factor)  # type: ignore[no-untyped-call]
    return reversed_


if TYPE_CHECKING:
    Scheduled = Fixed | Linear | Cosine | Steps | WarmUp
    Share = Fixed | Linear | Cosine | Steps | WarmUp
    Temperature = Fixed | Linear | Cosine | Steps | WarmUp | ByDifficulty | Learned
else:
    _Plain = Annotated[Fixed | Linear | Cosine | Steps | WarmUp, Discriminator("schedule")]
    Scheduled = Annotated[
        _Plain, BeforeValidator(number, json_schema_input_type=float | _Plain), AfterValidator(positive)
    ]
    """A temperature that is the same for all examples, and not trained."""
    Share = Annotated[_Plain, BeforeValidator(number, json_schema_input_type=float | _Plain), AfterValidator(share)]
    """A share of a whole, from 0 to 1."""
    _Any = Annotated[Fixed | Linear | Cosine | Steps | WarmUp | ByDifficulty | Learned, Discriminator("schedule")]
    Temperature = Annotated[
        _Any, BeforeValidator(number, json_schema_input_type=float | _Any), AfterValidator(positive)
    ]
