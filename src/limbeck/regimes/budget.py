"""What a control is given as much of as the distilled student: steps of all its trainings, or of the last, or compute. And one
that is given all labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Make, Regime, Teaching
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

Arm: TypeAlias = Callable[[Plan], Regime[Trained]]
Change: TypeAlias = Callable[[Stage], Stage]
EQUAL_COMPUTE: Final = "equal_compute"
FINAL_STAGE: Final = "final_stage"
CEILING: Final = "ceiling"
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


def earlier(stages: Sequence[Stage]) -> int:
    """The steps of all trainings of a student but the last."""
    return sum(stage.training.total for stage in stages[:-1])


def at_whole_budget(arm: Arm, regime: Teaching) -> Arm:
    """An arm of one training, with as many steps as all trainings of the regime's student have together."""

    def longer(plan: Plan) -> Regime[Trained]:
        plan = yield from plan.taught()
        return (yield from arm(plan.longer(earlier(regime.stages(plan)))))

    return longer


def at_final_stage(control: Arm, regime: Teaching) -> Arm:
    """A regime's control, trained for as long as the student's last training alone."""
    return _changed(
        control, lambda plan: _steps(regime.stages(plan)[-1].training.total), "of the last training's steps"
    )


def at_equal_compute(control: Arm, compute: Compute) -> Arm:
    """A regime's control, trained for as long as its steps cost what the distilled student's training costs."""
    return _changed(control, lambda plan: _steps(compute.matched_steps), "at equal compute")


def at_ceiling(control: Arm) -> Arm:
    """A regime's control that sees the labels which are hidden from every other student: what the data could teach at best."""

    def revealed(plan: Plan) -> Regime[Trained]:
        splits = replace(plan.splits, train=plan.splits.train.revealed())
        return (yield from control(replace(plan, splits=splits)))

    return _changed(revealed, lambda plan: lambda stage: stage, "with all labels")


def _steps(count: int) -> Change:
    """A training of so many steps."""
    return lambda stage: replace(stage, training=stage.training.model_copy(update={"steps": count, "epochs": None}))


def _changed(control: Arm, changes: Callable[[Plan], Change], how: str) -> Arm:
    """The control with each of its trainings changed, under a name of its own."""

    def arm(plan: Plan) -> Regime[Trained]:
        plan = yield from plan.taught()
        regime, answer = control(plan), None
        while True:
            try:
                step: Stage | Make = regime.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if isinstance(step, Stage):
                step = replace(changes(plan)(step), name=step.name.replace(_CONTROL, f"{_CONTROL} {how}", 1))
            answer = yield step

    return arm


def control_stage(control: Arm, plan: Plan) -> Stage:
    """The control's training, of a plan whose teacher is ready."""
    step = next(control(plan))
    assert isinstance(step, Stage)
    return step
