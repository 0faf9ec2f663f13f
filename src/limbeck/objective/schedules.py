"""Weights and temperatures over the course of training: numbers or schedules."""

from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, field_validator

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


class Fixed(Config):
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


class Linear(Config):
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


class Cosine(Config):
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


class Steps(Config):
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


def _number(value: Any) -> Any:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return {"schedule": "fixed", "value": value} if plain else value


_Any = Annotated[Fixed | Linear | Cosine | Steps, Discriminator("schedule")]
Schedule = Annotated[_Any, BeforeValidator(_number, json_schema_input_type=float | _Any)]


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


if TYPE_CHECKING:
    Weight = Fixed | Linear | Cosine | Steps
    Temperature = Fixed | Linear | Cosine | Steps
else:
    Weight = Annotated[Schedule, AfterValidator(non_negative)]
    Temperature = Annotated[Schedule, AfterValidator(positive)]
