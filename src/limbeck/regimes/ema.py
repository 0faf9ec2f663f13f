"""Mean teacher: the average of the student's own weights over its training teaches it (Tarvainen & Valpola 2017)."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from limbeck.regimes.budget import Arm
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.pupils import demand_alone
from limbeck.regimes.regime import Common, Regime, train
from limbeck.teachers.past import MovingAverage
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained


class Ema(Common):
    """The student is its own teacher, as it was on average over its last steps: nobody else teaches.

    What is learnt from it is the objective's. In the paper that is the squared distance of probabilities (``soft-targets`` of
    ``loss: probability-mse``), whose weight rises at first (``schedule: warm-up``), on rows without labels too.
    """

    taught: ClassVar[bool] = False

    name: Literal["ema"] = "ema"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """What the average keeps of itself in a step; the paper's 0.99 at first, 0.999 later. Less at the very beginning."""

    def teacher(self, student: nn.Module) -> MovingAverage:
        """See `limbeck.training.stage.Past`."""
        return MovingAverage(student, self.momentum)

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """The control, which learns from labels alone, and the distilled student; both have as many steps."""
        return {"control": Offline().control, "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The one training."""
        return (self._stage(plan, "student"),)

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        return (yield from train(self._stage(plan, "distilled")))

    def _stage(self, plan: Plan, name: str) -> Stage:
        demand_alone(plan, self.name)
        return replace(plan.stage(name), past=self)
