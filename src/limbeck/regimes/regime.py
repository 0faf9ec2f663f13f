"""What a regime is: a generator that yields a stage, gets back what was trained, and decides what comes next."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias, TypeVar, cast, runtime_checkable

from limbeck.config import Config
from limbeck.teachers.author import Wanted
from limbeck.training.settings import Training
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

if TYPE_CHECKING:
    from limbeck.data.examples import Examples
    from limbeck.regimes.plan import Plan

T = TypeVar("T")


@dataclass(frozen=True)
class Make:
    """Anything but a training that must be made and may be resumed: labelling, averaging, filtering.

    ``function`` is called with ``arguments`` and must find what an earlier call of itself left, and go on from there. If it is
    ``timed``, it also gives the seconds that it took, whenever that was: they belong to the next training.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    timed: bool = False


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


def make_timed(name: str, function: Callable[..., tuple[T, float]], **arguments: Any) -> Regime[T]:
    """Makes one thing that tells how many seconds it took."""
    made: tuple[T, float] = yield Make(name, function, arguments, timed=True)
    return made[0]


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

    def exams(self, plan: "Plan") -> "Mapping[str, Examples]":
        """Parts of the test by their names, if its students are asked about each after every training."""
        ...

    def parts(self, plan: "Plan") -> "tuple[Examples, ...]":
        """The labelled rows of each client, if they are divided among clients."""
        ...

    def making_seconds(self, plan: "Plan", seeds: int) -> float:
        """How long what its student learns from takes to be made, for all seeds together: an estimate from a little of it."""
        ...

    @property
    def wanted(self) -> Wanted | None:
        """What the teacher is to write after each training row's prompt; None: nothing."""
        ...

    @property
    def core(self) -> "Teaching":
        """The regime whose arms are compared, and whose steps and compute a control gets: itself, unless all arms end alike."""
        ...

    def ended(self, name: str, arm: "Callable[[Plan], Regime[Trained]]") -> "Callable[[Plan], Regime[Trained]]":
        """An arm of `core`, by its name in the evidence, with what all arms end with."""
        ...


class Common(Config):
    """What most regimes have in common: a teacher, the recipe's budget for each training, nothing made, no exams, no clients."""

    taught: ClassVar[bool] = True

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """Itself: every training has the recipe's budget."""
        return self

    def exams(self, plan: "Plan") -> "Mapping[str, Examples]":
        """None."""
        return {}

    def parts(self, plan: "Plan") -> "tuple[Examples, ...]":
        """None."""
        return ()

    def making_seconds(self, plan: "Plan", seeds: int) -> float:
        """0: nothing is made."""
        return 0.0

    @property
    def wanted(self) -> Wanted | None:
        """None: nothing is written."""
        return None

    @property
    def core(self) -> Teaching:
        """Itself."""
        return cast(Teaching, self)

    def ended(self, name: str, arm: "Callable[[Plan], Regime[Trained]]") -> "Callable[[Plan], Regime[Trained]]":
        """The arm."""
        return arm
