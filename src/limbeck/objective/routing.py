"""Learning from several named teachers, each example from those that suit it."""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck import losses
from limbeck.config import Tuple
from limbeck.data.batch import CLASS, REAL, SUPERVISED, Batch
from limbeck.objective.hints import Hints
from limbeck.objective.pairs import same_classes
from limbeck.objective.parts.router import Router, Routes
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.soft_targets import SoftTargets
from limbeck.objective.temperatures import Temperature
from limbeck.objective.term import About, Needs, Scope, Term, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer

LOGITS = "logits"
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]


class Routing(Weighted):
    """Soft targets from each named teacher, mixed example by example by a gate that is trained beside the student.

    The value is ``sum_k g_k (T^2 KL(teacher_k || student) + path_weight * hints_k)``, where hints lead layers of the student to
    layers of the teacher; its gradient is the student's alone: were the gate trained by it, every example would go to whom it is
    easiest to copy. The gate, ``g = softmax(W standardised(s) + b)`` of a signal s of the student without its gradient, learns
    which teachers are right instead: by the cross-entropy of their mixture ``sum_k g_k p_k`` with the label where one is seen,
    and ``balance`` times ``log K - H(g)`` everywhere. It begins with equal shares. With one teacher this is ``soft-targets``.
    """

    about: ClassVar[About] = About(
        "responses",
        "Jacobs et al. 1991, Neural Computation 3 (gate)",
        "sum over classes times T^2, sum over teachers by their shares, mean over examples",
        "several teachers of which each knows some of the examples better",
    )
    looks_at: ClassVar[str] = "the student's logits, those of each named teacher, and labels"
    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.MATRIX
    zero_at_match: ClassVar[bool] = True

    name: Literal["routing"] = "routing"
    teachers: Annotated[tuple[Name, ...], Tuple, Field(min_length=1)]
    """Names of the ensemble's members that are chosen from."""
    by: str = LOGITS
    """The student's signal that the gate reads, averaged over positions: its logits, or a layer."""
    temperature: Temperature = Fixed(value=4.0)
    """T: a number, a schedule, or by an example's difficulty for each teacher."""
    balance: Annotated[float, Field(ge=0)] = 0.1
    """How strongly shares are held together, in nats: with 0 the gate may come to hear one teacher alone."""
    paths: dict[str, dict[str, str]] | None = None
    """By a teacher's name, layers of it that are learnt from as well, each under the student's layer that is led to it."""
    path_weight: Annotated[float, Field(gt=0)] = 0.1
    """What a path counts beside the answers: normalised hints, mean over elements."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.teachers)) != len(self.teachers):
            raise ValueError("a teacher is named twice: name each once")
        if self.temperature.build() is not None:
            raise ValueError("a learned temperature belongs to one teacher: give a number or a schedule")
        if strange := sorted(set(self.paths or {}) - set(self.teachers)):
            raise ValueError(f"paths are of {strange[0]!r}, who is not among the teachers")
        return self

    @property
    def signals(self) -> tuple[str, ...]:
        """The teachers' logits, in order."""
        return tuple(f"{name}.{LOGITS}" for name in self.teachers)

    @property
    def hints(self) -> tuple[tuple[Hints, ...], ...]:
        """Each teacher's paths, in order."""
        return tuple(
            tuple(Hints(student=ours, teacher=f"{name}.{theirs}", normalise=True) for ours, theirs in pairs.items())
            for name in self.teachers
            for pairs in [(self.paths or {}).get(name, {})]
        )

    def needs(self) -> Needs:
        """The student's logits and what the gate reads; each teacher's logits; both ends of each path."""
        own = Needs(frozenset({LOGITS} | ({self.by} if len(self.teachers) > 1 else set())), frozenset(self.signals))
        for paths in self.hints:
            for one in paths:
                own |= one.needs()
        return own

    def by_answers(self) -> Term:
        """Soft targets from whoever teaches: the mean, or one of them."""
        return SoftTargets(weight=self.weight, gate=self.gate, owned=self.owned, temperature=self.temperature)

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The gate, but for one teacher, and what joins layers; None if nothing. All must have the student's classes."""
        for name in self.signals:
            same_classes(student, {LOGITS: teacher[name]})
        joints = [[one.build(student, teacher, examples) for one in paths] for paths in self.hints]
        router = Router(student[self.by], self.teachers) if len(self.teachers) > 1 else None
        return Routes(router, joints) if router is not None or any(joints) else None

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See above, [B]. What trains the gate has a gradient and is 0 in the value."""
        routes = part if isinstance(part, Routes) else Routes(None, [[]] * len(self.teachers))
        costs = []
        for number, (name, paths) in enumerate(zip(self.signals, self.hints, strict=True)):
            temperature = self.temperature.of(place, teacher[name], None)
            cost = losses.kl_divergence(student[LOGITS], teacher[name], temperature)
            for path, joint in zip(paths, routes.of(number), strict=True):
                cost = cost + self.path_weight * path.values(student, teacher, batch, place, joint)
            costs.append(cost)
        if routes.router is None:
            return costs[0]
        shares = routes.router(student[self.by].detach())
        routed = (shares.detach().exp() * torch.stack(costs, 1)).sum(1)
        said = torch.stack([teacher[name].detach() for name in self.signals], 1)
        known = losses.cross_entropy(losses.mixture(shares, said), batch.labels[CLASS])
        trained = self.balance * losses.evenness(shares) + torch.where(batch.masks[SUPERVISED], known, 0.0)
        value: Tensor = routed + trained - trained.detach()
        return value
