"""Students teach each other while they learn (deep mutual learning, Zhang et al. 2018, arXiv:1706.00384)."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from limbeck.config import Tuple
from limbeck.data.examples import Examples
from limbeck.data.task import rank
from limbeck.models.specs import ModelSpec, Spec
from limbeck.objective import Term
from limbeck.objective.within import Within
from limbeck.regimes.plan import Plan
from limbeck.regimes.pupils import PART, demand_alone, demand_apart, metrics_of
from limbeck.regimes.regime import Common, Regime, make, train
from limbeck.training.order import derived
from limbeck.training.stage import Origin, Stage, Start, Together
from limbeck.training.workshop import Trained

if TYPE_CHECKING:
    Models = tuple[Spec, ...]
else:
    Models = Annotated[tuple[ModelSpec, ...], Field(min_length=1, max_length=15), Tuple]


class Mutual(Common):
    """Peers learn from labels and from each other's answers, from weights of their own and on the same batches.

    The objective's terms that read no teacher are every peer's own. Of those that read one, each other peer is the teacher in
    turn, as it is at that step and without a gradient, and their mean counts; the paper's are ``labels: 1`` and
    ``soft-targets: {weight: 1, temperature: 1}``. All peers step at once, each with its gradient clipped by itself; the
    original's take turns.
    """

    taught: ClassVar[bool] = False

    name: Literal["mutual"] = "mutual"
    peers: Annotated[int, Field(ge=1, le=16)] = 2
    """How many students learn together."""
    models: Models | None = None
    """In place of further students: the other peers' models."""
    deliver: Literal["best", "student", "ensemble"] | None = None
    """The ``best`` peer by validation; the first, which is the ``student``; or all of them as an ``ensemble``. If left out: the
    best, and the student where peers are of several kinds."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.models is not None and "peers" in self.model_fields_set:
            raise ValueError("peers and models both say who the peers are: give one of them")
        if self.models is not None and self.deliver == "best":
            raise ValueError(
                "with models the best peer would be another kind of model for each seed: deliver the student or the ensemble"
            )
        return self

    def arms(self, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
        """The control is the same peers, and the same choice among them, that do not hear each other."""
        return {"control": self.control, "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The one training."""
        return (self._exchange(plan, "student"),)

    def control(self, plan: Plan) -> Regime[Trained]:
        """As many peers with labels alone: what remains is what they tell each other, not that there are several."""
        terms = [_own(place, term) for place in range(self._count) for term in plan.without_teacher]
        stage = self._stage(plan, "control", tuple(terms), plan.splits.train.labelled())
        return (yield from self._delivered(plan, stage, (yield from train(stage))))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The peer that is delivered, or all."""
        stage = self._exchange(plan, "distilled")
        return (yield from self._delivered(plan, stage, (yield from train(stage))))

    @property
    def _count(self) -> int:
        return self.peers if self.models is None else 1 + len(self.models)

    def _delivered(self, plan: Plan, stage: Stage, together: Trained) -> Regime[Trained]:
        deliver = self.deliver or ("best" if self.models is None else "student")
        if deliver == "ensemble":
            return together
        paths = tuple(f"peers.{place}" for place in range(1 if deliver == "student" else self._count))
        told = {"together": together, "paths": paths, "validation": plan.splits.validation, "device": plan.device}
        return (yield from make(f"peers of {stage.name}", best_of, **told))

    def _exchange(self, plan: Plan, name: str) -> Stage:
        demand_alone(plan, self.name)
        demand_apart(plan, self.name)
        heard = [one for place in range(self._count) for term in plan.terms for one in self._heard(place, term)]
        return self._stage(plan, name, tuple(heard), plan.read(plan.terms))

    def _stage(self, plan: Plan, name: str, terms: tuple[Term, ...], examples: Examples) -> Stage:
        starts: list[Origin] = [plan.start]
        for place in range(1, self._count):
            spec = plan.student if self.models is None else self.models[place - 1]
            starts.append(Start(spec, derived(plan.seed, "peer", place), plan.context))
        together = Together(tuple(starts), plan.splits.task.gives == "numbers")
        return plan.stage(name, terms, examples=examples, start=together)

    def _heard(self, place: int, term: Term) -> list[Within]:
        """A term of one peer: its own, or one for each of the others."""
        own = _own(place, term)
        if not term.needs().teacher:
            return [own]
        others = [other for other in range(self._count) if other != place]
        return [
            replace(own, teacher=f"peers.{other}", of=f"{own.of} from {other + 1}", share=1 / len(others))
            for other in others
        ]


def best_of(together: Trained, paths: tuple[str, ...], validation: Examples, device: str) -> Trained:
    """The part that is best on the validation part, with its metrics there."""
    parts = [together.part(path) for path in paths]
    task, found = validation.task, [metrics_of(one, validation, device) for one in parts]
    best = max(range(len(parts)), key=lambda place: rank(task, found[place]))
    each = {f"{PART}peer {place + 1}": one[task.measure] for place, one in enumerate(found)}
    return replace(parts[best], metrics=found[best] | each)


def _own(place: int, term: Term) -> Within:
    return Within(term, f"peers.{place}", None, f"peer {place + 1}")
