"""Replacing a trained model layer by layer, then training what has taken its place (Xu et al. 2020, arXiv:2002.02925)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.replacing import Replacement, replaced, replacing
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Common, Regime, train
from limbeck.training.settings import Training
from limbeck.training.stage import Origin, Stage
from limbeck.training.workshop import Trained


@dataclass(frozen=True)
class Replacing:
    """The teacher, its layers to be replaced by those of the student that ``student`` gives."""

    student: Origin = field(repr=False)
    donor: nn.Module = field(repr=False)
    settings: Replacement
    sample: Mapping[str, Tensor] = field(repr=False)

    def module(self) -> nn.Module:
        """A new module; see `limbeck.models.replacing.replacing`."""
        return replacing(self.donor, self.student.module(), self.settings, self.sample)


@dataclass(frozen=True)
class Successor:
    """The student's layers of a training that began with `Replacing`, with the rest of the teacher around them."""

    trained: Trained

    def module(self) -> nn.Module:
        """A new module."""
        return replaced(self.trained.module())


class Theseus(Common):
    """Module replacement: no loss compares the two, the student's layers learn to work among the teacher's.

    The student is made of the teacher's layers (``student: {name: shrunk, layers: 3, choose: first}`` is the paper's). In the
    first training, on labels alone, each step draws whether a layer of the student stands in for its group of the
    teacher's; only the student's layers are trained. The second is the recipe's own, of the whole student.
    """

    name: Literal["theseus"] = "theseus"
    from_rate: Annotated[float, Field(gt=0, le=1)] = 0.3
    """The probability of replacing at first."""
    until: Annotated[float, Field(gt=0, le=1)] = 0.7
    """The share of the first training's steps after which it is 1; it rises in a line."""
    replacing: Training | None = None
    """Budget and optimiser of the first training; the recipe's own if left out."""

    def arms(self, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
        """The control, from the same layers and with as many steps in one training; what is the paper's own needs no other."""
        return {"control": self.control, "distilled": self.distilled}

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """With another budget for the first training, if it has its own."""
        return self if self.replacing is None else self.model_copy(update={"replacing": change(self.replacing)})

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """Both trainings."""
        return self._first(plan), plan.stage("student", teacher=plan.teacher)

    def control(self, plan: Plan) -> Regime[Trained]:
        """The same student, trained on labels for the steps of both trainings."""
        plan = yield from plan.taught()
        return (yield from Offline().control(plan.longer(self._first(plan).training.total)))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        trained = yield from train(self._first(plan))
        reads = any(term.needs().teacher for term in plan.terms)
        teacher = (yield from plan.labelled()) if reads else None
        return (yield from train(plan.stage("distilled", teacher=teacher, start=Successor(trained))))

    def _first(self, plan: Plan) -> Stage:
        donor = plan.teacher.module if plan.teacher else None
        if donor is None:
            raise LimbeckError(
                "The regime 'theseus' puts the student's layers into the teacher, so it needs a teacher that is a model, "
                "not stored outputs or a served one."
            )
        if plan.context.donor_tokens is not None:
            raise LimbeckError(
                "The regime 'theseus' puts the student's layers into the teacher, which reads other tokens than the student: "
                "leave out 'vocabulary: task' and data.tokenizer."
            )
        examples = plan.splits.train.labelled()
        training = (self.replacing or plan.training).resolved(len(examples))
        stage = plan.stage(
            "replacing",
            plan.without_teacher,
            examples=examples,
            start=Replacing(plan.start, donor, Replacement(self.from_rate, self.until, plan.seed), plan.context.sample),
        )
        return replace(stage, training=training)
