"""What a regime is: a generator that yields a stage, gets back what was trained, and decides what comes next."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from limbeck.training.settings import Training
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

if TYPE_CHECKING:
    from limbeck.regimes.plan import Plan

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


@runtime_checkable
class Teaching(Protocol):
    """What a recipe's ``regime`` names: who teaches whom, and when. A frozen config; its arms are regimes.

    ``taught``: it needs a teacher that is given, or trained beforehand.
    """

    @property
    def taught(self) -> bool:
        """See above."""
        ...

    @property
    def name(self) -> str:
        """As it is written in a recipe."""
        ...

    def plain(self) -> dict[str, Any]:
        """Its settings as JSON types, ``name`` among them: with them a run is named."""
        ...

    def arms(self, plan: "Plan") -> "dict[str, Callable[[Plan], Regime[Trained]]]":
        """The arms by their names in the evidence, in the order in which they are trained; ``distilled`` is the last."""
        ...

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """The same with other budgets for the trainings that it names itself."""
        ...

    def stages(self, plan: "Plan") -> tuple[Stage, ...]:
        """The trainings of the student that the recipe is about, from untrained models: what a preflight tries."""
        ...


@runtime_checkable
class Making(Protocol):
    """What a regime has beside all that if it makes what its student learns from: a preflight tells how long that takes."""

    def making_seconds(self, plan: "Plan", seeds: int) -> float:
        """An estimate for all seeds together, from a little of it."""
        ...


@runtime_checkable
class Ending(Protocol):
    """What a regime has beside all that if it is another one whose arms all end with the same training.

    What is compared with what is then the other's affair: how long its controls are, and what compute they have.
    """

    @property
    def of(self) -> Teaching:
        """The other one."""
        ...

    def ended(self, name: str, arm: "Callable[[Plan], Regime[Trained]]") -> "Callable[[Plan], Regime[Trained]]":
        """An arm of the other one, by its name in the evidence, with the last training behind it."""
        ...
