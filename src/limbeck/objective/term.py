"""The `Term` contract: one weighted disagreement between student and teacher (or labels)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from limbeck.config import Config
from limbeck.data.batch import Batch
from limbeck.objective.schedules import Cosine, Fixed, Linear, Place, Steps, Weight
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer

Scope = Literal["token", "example", "batch"]


@dataclass(frozen=True, slots=True)
class Needs:
    """Names of signals that are read from each side."""

    student: frozenset[str]
    teacher: frozenset[str] = frozenset()

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(self.student | other.student, self.teacher | other.teacher)


class Weighted(Config):
    """The part of a recipe that all terms have."""

    weight: Weight = Fixed(value=1.0)
    """A number or a schedule; it weighs the term's mean over the examples that count."""

    def alone(self) -> Self:
        """The same term at weight 1."""
        return self.model_copy(update={"weight": Fixed(value=1.0)})


@runtime_checkable
class Term(Protocol):
    """What the objective sums. A term is a frozen config; what it trains is built once, and handed back as ``part``.

    ``mask`` names the batch's mask of rows that count, and so the denominator; ``scope`` says what one value stands for.
    ``reads`` says how much of the teacher's logits it needs. ``zero_at_match``: the value is 0 when the teacher is the
    student.
    """

    scope: ClassVar[Scope]
    mask: ClassVar[str]
    reads: ClassVar[Offer]
    zero_at_match: ClassVar[bool]

    @property
    def name(self) -> str:
        """As it is written in a recipe."""
        ...

    @property
    def weight(self) -> Fixed | Linear | Cosine | Steps:
        """What its mean is multiplied with."""
        ...

    def alone(self) -> Self:
        """The same term at weight 1."""
        ...

    def plain(self) -> dict[str, Any]:
        """Its settings as JSON types."""
        ...

    def needs(self) -> Needs:
        """The signals that it reads."""
        ...

    def build(self, student: Signals, teacher: Signals) -> nn.Module | None:
        """What it trains beside the student, fitted to one batch of signals; None if nothing.

        Raises:
            SignalError: the two sides cannot be joined.
        """
        ...

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """One value an example [B], in nats or squared units; what ``mask`` leaves out is ignored."""
        ...
