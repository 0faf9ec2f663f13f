"""A student is taught by what it was in the middle of its training (Yang et al. 2019, arXiv:1812.00123)."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from limbeck.errors import LimbeckError
from limbeck.regimes.budget import Arm
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.pupils import demand_alone, untrained
from limbeck.regimes.regime import Common, Regime, train
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained


class Snapshot(Common):
    """The student learns from labels; what it is then teaches it for the rest. Each part has its own learning rate schedule."""

    taught: ClassVar[bool] = False

    name: Literal["snapshot"] = "snapshot"
    at: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """After which share of the steps the snapshot is taken."""

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """The control, of as many steps in one training, and the distilled student."""
        return {"control": Offline().control, "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """Both parts."""
        first, rest = self._parts(plan)
        return first.stage("snapshot", plan.without_teacher), rest.stage("student", teacher=untrained(plan))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        first, rest = self._parts(plan)
        snapshot = yield from train(first.stage("snapshot", plan.without_teacher))
        rest = replace(rest, teacher=snapshot.as_teacher(plan.asking))
        teacher = yield from rest.labelled()
        return (yield from train(rest.stage("distilled", teacher=teacher, start=snapshot)))

    def _parts(self, plan: Plan) -> tuple[Plan, Plan]:
        """The plan with each part's share of the steps, at least one."""
        demand_alone(plan, self.name)
        total = plan.training.total
        if total < 2:
            raise LimbeckError(
                "In the regime 'snapshot' a student is trained in two parts: it needs two steps at least."
            )
        steps = min(total - 1, max(1, round(self.at * total)))
        first, rest = (
            replace(plan, training=plan.training.model_copy(update={"steps": own, "epochs": None}))
            for own in (steps, total - steps)
        )
        return first, rest
