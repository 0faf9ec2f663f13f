"""Numbers over the course of training: fixed, or on a schedule."""

from abc import abstractmethod
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from limbeck.config import Config


@dataclass(frozen=True, slots=True)
class Place:
    """Where training stands: ``step`` real steps are done of ``steps``."""

    step: int
    steps: int

    @property
    def progress(self) -> float:
        """0 before the first step, 1 at the last one."""
        return min(1.0, self.step / (self.steps - 1)) if self.steps > 1 else 0.0


class Schedule(Config):
    """A number that depends on where training stands, and on nothing else."""

    shared: ClassVar[bool] = True

    @abstractmethod
    def at(self, place: Place) -> float:
        """The value there."""

    @property
    @abstractmethod
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""

    def of(self, place: Place, teacher_logits: Tensor, part: nn.Module | None) -> float | Tensor:
        """The value as a temperature: the same for every example."""
        return self.at(place)

    def build(self) -> nn.Module | None:
        """What it trains: nothing."""
        return None


class Fixed(Schedule):
    """The same value throughout."""

    schedule: Literal["fixed"] = "fixed"
    value: float

    def at(self, place: Place) -> float:
        """The value, wherever training stands."""
        return self.value

    @property
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""
        return (self.value,)


class Linear(Schedule):
    """A straight line from the first step to the last."""

    schedule: Literal["linear"]
    start: float
    end: float

    def at(self, place: Place) -> float:
        """``start`` at the first step, ``end`` at the last, both exactly."""
        u = place.progress
        return self.start * (1 - u) + self.end * u

    @property
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""
        return (self.start, self.end)


class Cosine(Schedule):
    """Half a cosine from the first step to the last: slow, fast, slow."""

    schedule: Literal["cosine"]
    start: float
    end: float

    def at(self, place: Place) -> float:
        """``start`` at the first step, ``end`` at the last."""
        u = (1 - cos(pi * place.progress)) / 2
        return self.start * (1 - u) + self.end * u

    @property
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""
        return (self.start, self.end)


class Steps(Schedule):
    """Values that hold from a share of the training on."""

    schedule: Literal["steps"]
    values: tuple[tuple[Annotated[float, Field(ge=0, le=1)], float], ...] = Field(min_length=1)
    """Pairs (share of training, value), the first at 0: ``[[0, 4], [0.7, 1]]``."""

    @field_validator("values")
    @classmethod
    def _ordered(cls, values: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        shares = [share for share, _ in values]
        if shares[0] != 0 or shares != sorted(set(shares)):
            raise ValueError("the shares must start at 0 and increase")
        return values

    def at(self, place: Place) -> float:
        """The value of the last share that is reached."""
        return next(value for share, value in reversed(self.values) if place.progress >= share)

    @property
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""
        return tuple(value for _, value in self.values)


class WarmUp(Schedule):
    """A straight line from 0 over the first share of the training, then the same value."""

    schedule: Literal["warm-up"]
    value: float
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of the training after which ``value`` is reached."""

    def at(self, place: Place) -> float:
        """0 at the first step, ``value`` from ``share`` on."""
        return self.value * min(1.0, place.progress / self.share)

    @property
    def turns(self) -> tuple[float, ...]:
        """Values between which all the others lie."""
        return (0.0, self.value)


def number(value: Any) -> Any:
    """A number as the schedule that it is short for; anything else as it is."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return {"schedule": "fixed", "value": value} if plain else value


def non_negative(schedule: Any) -> Any:
    """A validator: every value of the schedule is finite and none is below zero.

    Raises:
        ValueError: one is.
    """
    if not all(isfinite(value) and value >= 0 for value in schedule.turns):
        raise ValueError("must be a finite number, not negative")
    return schedule


def positive(schedule: Any) -> Any:
    """A validator: every value of the schedule is finite and above zero.

    Raises:
        ValueError: one is not.
    """
    if not all(isfinite(value) and value > 0 for value in schedule.turns):
        raise ValueError("must be a finite number above 0")
    return schedule


def share(schedule: Any) -> Any:
    """A validator: every value of the schedule is from 0 to 1.

    Raises:
        ValueError: one is not.
    """
    if max(non_negative(schedule).turns) > 1:
        raise ValueError("must be from 0 to 1")
    return schedule
