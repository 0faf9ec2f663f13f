"""What a regime is: a generator that yields a stage, gets back what was trained, and decides what comes next."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

T = TypeVar("T")


@dataclass(frozen=True)
class Make:
    """Anything but a training that must be made and may be resumed: labelling, averaging, filtering.

    ``function`` is called with ``arguments`` and must find what an earlier call of itself left, and go on from there.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]


Regime: TypeAlias = Generator[Stage | Make, Any, T]
"""Never optimises, draws no random number; nests by ``yield from``."""


def train(stage: Stage) -> Regime[Trained]:
    """Trains one stage."""
    trained: Trained = yield stage
    return trained


def make(name: str, function: Callable[..., T], **arguments: Any) -> Regime[T]:
    """Makes one thing."""
    made: T = yield Make(name, function, arguments)
    return made
