"""Teacher assistants: models of sizes in between, each the next one's teacher (Mirzadeh et al. 2020, arXiv:1902.03393)."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import Field

from limbeck.config import Config
from limbeck.data.examples import Examples
from limbeck.errors import LimbeckError
from limbeck.models.sized import between
from limbeck.models.specs import ModelSpec, Spec
from limbeck.regimes.budget import Arm
from limbeck.regimes.plan import Plan
from limbeck.regimes.pupils import answers_of, arms_beside, demand_answers
from limbeck.regimes.regime import Common, Regime, make, train
from limbeck.teachers.teacher import Teacher
from limbeck.training.order import derived
from limbeck.training.settings import Training
from limbeck.training.stage import Stage, Start
from limbeck.training.workshop import Trained

if TYPE_CHECKING:
    ModelChoice = Spec
else:
    ModelChoice = ModelSpec


_ROUNDING: Final = 1e-9  # where a single example tells the two apart, gain and error are the same number


class Assistant(Config):
    """A model between teacher and student."""

    model: ModelChoice
    """Which one."""
    training: Training | None = None
    """How it is trained; the student's budget and optimiser if left out."""


class Assistants(Common):
    """The teacher teaches the first assistant, which teaches the second, and so on down to the student."""

    name: Literal["assistants"] = "assistants"
    chain: tuple[Assistant, ...] | None = None
    """The assistants, the first one first; null: the student's architecture in larger sizes."""
    ratio: Annotated[float, Field(gt=1)] = 5.0
    """Without a chain: how many times as many parameters as its pupil a teacher has at most."""
    stop: bool = False
    """Whether a student is taught by the teacher and by each assistant in turn, and no further one is tried once a student is not
    better on the validation part by a standard error than the one before; the best is delivered."""

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """See `arms_beside`: the teacher alone has as many steps as the whole chain."""
        return {**arms_beside(self, plan), "distilled": self.distilled}

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """With other budgets for the assistants that have their own."""
        if self.chain is None:
            return self
        changed = [one.training and change(one.training) for one in self.chain]
        chain = tuple(one.model_copy(update={"training": own}) for one, own in zip(self.chain, changed, strict=True))
        return self.model_copy(update={"chain": chain})

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """All that may be trained."""
        demand_answers(plan, self.name)
        student = plan.stage("student", teacher=plan.teacher)
        taught = [self._stage(plan, number, one, plan.teacher) for number, one in enumerate(self._chain(plan), 1)]
        if not self.stop:
            return (*taught, student)
        return (student, *(stage for one in taught for stage in (one, student)))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student at the end of the chain; with ``stop`` the best one."""
        plan = yield from plan.taught()
        demand_answers(plan, self.name)
        chain, best = self._chain(plan), None
        teacher = yield from plan.labelled()
        if self.stop:
            best = yield from train(plan.stage("student of the teacher", teacher=teacher))
        for number, one in enumerate(chain, 1):
            trained = yield from train(self._stage(plan, number, one, teacher))
            plan = replace(plan, teacher=trained.as_teacher(plan.asking))
            teacher = yield from plan.labelled()
            if self.stop and best is not None:
                student = yield from train(plan.stage(f"student of assistant {number}", teacher=teacher))
                told = {"before": best, "after": student, "validation": plan.splits.validation, "device": plan.device}
                if not (yield from make(f"whether assistant {number} pays", pays, **told)):
                    return best
                best = student
        return best or (yield from train(plan.stage("distilled", teacher=teacher)))

    def _chain(self, plan: Plan) -> tuple[Assistant, ...]:
        if self.chain is not None:
            return self.chain
        module = plan.teacher.module if plan.teacher else None
        if module is None:
            raise LimbeckError(
                "How large the teacher is cannot be told, as it is no model in memory, so no models between it and the student "
                "can be found: name them with 'chain'."
            )
        largest = sum(one.numel() for one in module.parameters())
        return tuple(Assistant(model=one) for one in between(plan.student, plan.context, largest, self.ratio))

    def _stage(self, plan: Plan, number: int, one: Assistant, teacher: Teacher | None) -> Stage:
        start = Start(one.model, derived(plan.seed, "assistant", number), plan.context)
        stage = plan.stage(f"assistant {number}", teacher=teacher, start=start)
        training = plan.training if one.training is None else one.training.resolved(len(plan.splits.train))
        return replace(stage, training=training)


def pays(before: Trained, after: Trained, validation: Examples, device: str) -> bool:
    """Whether the later student does better on the examples of validation, by more than a standard error of the difference."""
    task = validation.task
    gain = task.scores(answers_of(after, validation, device)) - task.scores(answers_of(before, validation, device))
    return bool(gain.mean() > gain.std() / len(gain) ** 0.5 + _ROUNDING)
