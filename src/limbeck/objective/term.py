"""The `Term` contract: one weighted disagreement between student and teacher (or labels)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, cast, runtime_checkable

from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck.config import Config
from limbeck.data.batch import Batch
from limbeck.data.task import Gives
from limbeck.losses.divergences import Divergence
from limbeck.losses.storages import Storage
from limbeck.objective.balance import Weight
from limbeck.objective.gates import GateField, Gating
from limbeck.objective.schedules import Fixed, Place, Schedule
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


class Credit(Protocol):
    """What each row of answers weighs beside its mask, by what both sides say of it."""

    def __call__(self, student: Storage, teacher: Storage, rows: Batch) -> Tensor:
        """Constants, [N], negative too."""
        ...


@dataclass(frozen=True, slots=True)
class Over:
    """What a term asks of many classes at once: ``scale`` times a divergence from what ``teacher`` knows, softened by T.

    ``credit``: what each row weighs, if not all alike. Only the gradient means something then, so its value is not shown.
    """

    divergence: Divergence
    teacher: Storage
    scale: float = 1.0
    temperature: float = 1.0
    credit: Credit | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What a reader chooses a term by.

    ``reduction``: what its default weight is meant for: how one value is made from an example, or from a batch.
    """

    family: Literal["responses", "features", "attention", "relations", "adversarial"]
    paper: str
    reduction: str
    when: str


class Owned(Config):
    """How what a term trains beside the student is optimised; None: as the student is."""

    rate: Annotated[float, Field(gt=0)] = 1.0
    """Its learning rate, as a multiple of the student's."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None = None
    """Decay rates of AdamW's moments."""


Layers = Literal["uniform", "last", "similarity"]
Match = Callable[[Layers], list[tuple[str, str]]]
"""Pairs (student's layer, teacher's layer) that a rule gives for two models."""


class Weighted(Config):
    """The part of a recipe that all terms have."""

    weight: Weight = Fixed(value=1.0)
    """A number or a schedule; it weighs the term's mean over the examples that count."""
    gate: GateField | None = None
    """Which examples it learns from, and how much."""
    task: Annotated[str | None, Field(exclude_if=lambda task: task is None)] = None
    """In the task ``multi-task``: whose head it is about; null: of each that it suits."""
    owned: Owned = Owned()
    """How what it trains beside the student (a projector, say) is optimised."""

    @model_validator(mode="after")
    def _gates_weigh_examples(self) -> Self:
        if self.gate and getattr(self, "scope", None) == "batch":
            raise ValueError("this term compares the examples of a batch with each other: it takes no gate")
        return self

    whole: ClassVar[bool] = False

    @property
    def takes(self) -> frozenset[Gives]:
        """Which kinds of answers it can read where it reads logits."""
        return frozenset({"choices"})

    def over(self, teacher: Storage | None, labels: Tensor, classes: int, place: Place) -> tuple[Over, ...]:
        """What it is the sum of where answers are ``tokens``; see `takes`. ``labels``: int64 [N], negative where not seen."""
        raise NotImplementedError

    def about_task(self, task: str) -> Self:
        """The same term about one of several tasks."""
        return self.model_copy(update={"task": task})

    def alone(self) -> Self:
        """The same term at weight 1, without a gate."""
        return self.model_copy(update={"weight": Fixed(value=1.0), "gate": None})

    def by_answers(self) -> "Term | None":
        """What of it learns from a single teacher's logits alone: itself, or a term in its place; None if nothing does."""
        return cast("Term", self) if self.needs().teacher <= {"logits"} else None

    def needs(self) -> Needs:
        """See `Term.needs`."""
        raise NotImplementedError

    def resolved(self, match: Match) -> tuple[Self, ...]:
        """The terms that it stands for, once its layers are found."""
        return (self,)


@runtime_checkable
class Term(Protocol):
    """What the objective sums. A term is a frozen config; what it trains is built once, and handed back as ``part``.

    ``mask`` names the batch's mask of rows that count, and so the denominator; ``scope`` says what one value stands for.
    A term sees the rows that count and no others; one of scope ``batch`` sees those of all processes.
    ``looks_at`` says in words what it reads. ``zero_at_match``: the
    value is 0 when the teacher is the student. ``whole``: it sees all answers of an example in one row, [B, K, C], and not a
    row for each.
    """

    @property
    def about(self) -> About:
        """What a reader chooses it by."""
        ...

    @property
    def looks_at(self) -> str:
        """What it reads, in words."""
        ...

    @property
    def scope(self) -> Scope:
        """What one value stands for."""
        ...

    @property
    def zero_at_match(self) -> bool:
        """See above."""
        ...

    @property
    def whole(self) -> bool:
        """See above."""
        ...

    @property
    def mask(self) -> str:
        """The batch's mask of rows that count."""
        ...

    @property
    def reads(self) -> Offer:
        """How much of the teacher's logits it needs."""
        ...

    @property
    def name(self) -> str:
        """As it is written in a recipe."""
        ...

    @property
    def weight(self) -> Schedule:
        """What its mean is multiplied with."""
        ...

    @property
    def gate(self) -> Gating | None:
        """Which examples it learns from; None: all."""
        ...

    @property
    def task(self) -> str | None:
        """Whose head it is about, where several tasks have one each; None: it is about no single one."""
        ...

    def about_task(self, task: str) -> "Term":
        """The same term about one of several tasks."""
        ...

    @property
    def owned(self) -> Owned:
        """How its trained parts are optimised."""
        ...

    @property
    def takes(self) -> frozenset[Gives]:
        """Which kinds of answers it can read where it reads logits."""
        ...

    def over(self, teacher: Storage | None, labels: Tensor, classes: int, place: Place) -> tuple[Over, ...]:
        """What it is the sum of where answers are ``tokens``; see `takes`. ``labels``: int64 [N], negative where not seen."""
        ...

    def alone(self) -> Self:
        """The same term at weight 1, without a gate."""
        ...

    def by_answers(self) -> "Term | None":
        """What of it learns from a single teacher's logits alone: itself, or a term in its place; None if nothing does."""
        ...

    def plain(self) -> dict[str, Any]:
        """Its settings as JSON types."""
        ...

    def resolved(self, match: Match) -> "tuple[Term, ...]":
        """The terms that it stands for, once its layers are found."""
        ...

    def needs(self) -> Needs:
        """The signals that it reads."""
        ...

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """What it trains or remembers beside the student, fitted to one batch of signals; None if nothing.

        ``examples``: ids are below it.

        Raises:
            SignalError: the two sides cannot be joined.
        """
        ...

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """One value an example [B], or a scalar of scope ``batch``, in nats or squared units."""
        ...
