"""A term between parts of the student itself, or of one part: peers and deep layers teach without a second pass."""

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.task import Gives
from limbeck.losses.storages import Storage
from limbeck.objective.gates import Gating
from limbeck.objective.schedules import Place, Schedule
from limbeck.objective.term import About, Match, Needs, Over, Owned, Scope, Term
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer


@dataclass(frozen=True)
class Within:
    """A term that reads its sides from the student's own signals. What teaches is detached: it learns from its own terms alone.

    Args:
        term: what is compared, and how.
        student: the name of the signal that stands for the student's ``logits``; other signals keep their names.
        teacher: of the one that stands for the teacher's, likewise; None: the term reads no teacher.
        of: whose term it is, for its name in curves.
        share: what its values are multiplied with.
    """

    term: Term
    student: str
    teacher: str | None
    of: str
    share: float = 1.0

    @property
    def about(self) -> About:
        """The term's."""
        return self.term.about

    @property
    def looks_at(self) -> str:
        """What it reads, in words."""
        return f"{self.term.looks_at}, of {self.of}"

    @property
    def scope(self) -> Scope:
        """The term's."""
        return self.term.scope

    @property
    def zero_at_match(self) -> bool:
        """The term's."""
        return self.term.zero_at_match

    @property
    def whole(self) -> bool:
        """The term's."""
        return self.term.whole

    @property
    def mask(self) -> str:
        """The term's."""
        return self.term.mask

    @property
    def reads(self) -> Offer:
        """The term's."""
        return self.term.reads

    @property
    def name(self) -> str:
        """The term's, and whose it is."""
        return f"{self.term.name} of {self.of}"

    @property
    def weight(self) -> Schedule:
        """The term's."""
        return self.term.weight

    @property
    def gate(self) -> Gating | None:
        """The term's, which reads the same parts."""
        return _Gate(self.term.gate, self) if self.term.gate else None

    @property
    def task(self) -> str | None:
        """The term's."""
        return self.term.task

    def about_task(self, task: str) -> Self:
        """See `Term.about_task`."""
        return replace(self, term=self.term.about_task(task))

    @property
    def owned(self) -> Owned:
        """The term's."""
        return self.term.owned

    @property
    def takes(self) -> frozenset[Gives]:
        """The term's."""
        return self.term.takes

    def over(self, teacher: Storage | None, labels: Tensor, classes: int, place: Place) -> tuple[Over, ...]:
        """The term's."""
        return self.term.over(teacher, labels, classes, place)

    def alone(self) -> Self:
        """See `Term.alone`."""
        return replace(self, term=self.term.alone())

    def by_answers(self) -> Term | None:
        """Itself: no other teacher is heard."""
        return self

    def plain(self) -> dict[str, Any]:
        """See `Term.plain`."""
        own = {"student": self.student, "teacher": self.teacher, "share": self.share}
        return {"name": "within", "term": self.term.plain(), **own}

    def resolved(self, match: Match) -> tuple[Self, ...]:
        """See `Term.resolved`."""
        return tuple(replace(self, term=one) for one in self.term.resolved(match))

    def needs(self) -> Needs:
        """Signals of the student alone."""
        needs = self.term.needs()
        return Needs(named(needs.student, self.student) | named(needs.teacher, self.teacher))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """See `Term.build`."""
        return self.term.build(*self.sides(student, self.term.needs()), examples)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `Term.values`."""
        return self.share * self.term.values(*self.sides(student, self.term.needs()), batch, place, part)

    def sides(self, shown: Signals, needs: Needs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the term reads as the student's, and detached as the teacher's."""
        ours = {one: shown[_name(one, self.student)] for one in needs.student}
        return ours, {one: shown[_name(one, self.teacher)].detach() for one in needs.teacher}


@dataclass(frozen=True)
class _Gate:
    """A gate over the same parts."""

    gate: Gating
    within: Within

    @property
    def student(self) -> frozenset[str]:
        """All that it reads."""
        return named(self.gate.student, self.within.student) | named(self.gate.teacher, self.within.teacher)

    @property
    def teacher(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def weights(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """See `Gating.weights`."""
        needs = Needs(self.gate.student, self.gate.teacher)
        return self.gate.weights(*self.within.sides(student, needs), batch)


def named(names: frozenset[str], logits: str | None) -> frozenset[str]:
    """The names as the student shows them."""
    return frozenset(_name(one, logits) for one in names)


def _name(name: str, logits: str | None) -> str:
    return logits if name == "logits" and logits is not None else name
