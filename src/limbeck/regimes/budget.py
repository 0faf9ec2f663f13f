"""What a control is given as much of as the distilled student: steps, which every control has, or compute."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Make, Regime
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

Arm: TypeAlias = Callable[[Plan], Regime[Trained]]
EQUAL_COMPUTE: Final = "equal_compute"
_CONTROL: Final = "control"


@dataclass(frozen=True)
class Compute:
    """FLOPs of one training of the student, all stages and the teacher's passes; and of a step of its control, of ``steps``.

    What the teacher's own training took is in none of them.
    """

    distilled: float
    control_step: float
    steps: int

    @property
    def control(self) -> float:
        """Of the control that has as many steps."""
        return self.control_step * self.steps

    @property
    def ratio(self) -> float:
        """How many times the control's the distilled student's is."""
        return self.distilled / self.control

    @property
    def matched_steps(self) -> int:
        """The steps in which a control spends as much as the distilled student; never fewer than that has."""
        return max(self.steps, round(self.distilled / self.control_step))


def at_equal_compute(control: Arm, compute: Compute) -> Arm:
    """A regime's control, trained for as long as its steps cost what the distilled student's training costs."""
    more = compute.matched_steps - compute.steps

    def arm(plan: Plan) -> Regime[Trained]:
        regime, answer = control(plan.longer(more)), None
        while True:
            try:
                step: Stage | Make = regime.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            name = step.name.replace(_CONTROL, f"{_CONTROL} at equal compute", 1)
            answer = yield replace(step, name=name)

    return arm


def control_stage(control: Arm, plan: Plan) -> Stage:
    """The control's training, of a plan whose teacher is ready."""
    step = next(control(plan))
    assert isinstance(step, Stage)
    return step
