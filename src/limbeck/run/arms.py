"""The arms of an experiment: its regime's, and controls of as many steps, of as much compute, or of all labels."""

from collections.abc import Sequence
from dataclasses import replace

from limbeck.advice.compute import step_cost
from limbeck.errors import LimbeckError
from limbeck.regimes.apart import APART, one_each
from limbeck.regimes.budget import (
    CEILING,
    EQUAL_COMPUTE,
    FINAL_STAGE,
    Arm,
    Compute,
    at_ceiling,
    at_equal_compute,
    at_final_stage,
    control_stage,
    earlier,
)
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Make, Regime
from limbeck.run.experiment import Experiment
from limbeck.teachers.coded import CodedTeacher
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained


def arms_of(experiment: Experiment, plan: Plan, compute: Compute | None) -> dict[str, Arm]:
    """The arms by name, in the order in which they are trained; ``plan`` has its teacher.

    Raises:
        LimbeckError: the recipe asks for one with all labels, and the others see all that there are.
    """
    regime, ended = experiment.regime.core, experiment.regime.ended
    found: dict[str, Arm] = {}
    for name, arm in regime.arms(plan).items():
        found[name] = ended(name, arm)
        if name == "control" and _longer(arm, regime.stages(plan), plan):
            found[FINAL_STAGE] = ended(FINAL_STAGE, at_final_stage(arm, regime))
        if name == "control" and experiment.equal_compute and compute is not None:
            found[EQUAL_COMPUTE] = ended(EQUAL_COMPUTE, at_equal_compute(arm, compute))
        if name == "control" and experiment.ceiling:
            _demand_hidden(experiment)
            found[CEILING] = at_ceiling(ended(CEILING, arm))
        if name == "control" and experiment.apart:
            found[APART] = ended(APART, one_each(regime))
    return found


def _longer(control: Arm, stages: Sequence[Stage], plan: Plan) -> bool:
    """Whether the control's one training is as long as all of the student's; of as many trainings it is not."""
    before = earlier(stages)
    return bool(before) and control_stage(control, plan).training.total >= before + stages[-1].training.total


def _demand_hidden(experiment: Experiment) -> None:
    train = experiment.splits.train
    if len(train.revealed().labelled()) == len(train.labelled()):
        raise LimbeckError(
            f"'evidence.ceiling' trains a student on labels that are hidden from the others, and none is: they see all "
            f"{len(train.labelled()):,} labels that the {len(train):,} training rows have. Hide some (data.labelled), or leave "
            "'ceiling' out."
        )


def remembered(arm: Regime[Trained]) -> Regime[Trained]:
    """The arm's regime; what it gives remembers the trainings before it, each the time of making what it learnt from."""
    before, answer, making = list[Trained](), None, 0.0
    while True:
        try:
            step = arm.send(answer)
        except StopIteration as end:
            last: Trained = end.value
            others = {last.weights, *(one.weights for one in last.of)}  # it may be a part of one, or made of several
            return replace(last, before=tuple(one for one in before if one.weights not in others))
        answer = yield step
        if isinstance(step, Make) and step.timed:
            making += answer[1]
        elif isinstance(answer, Trained):  # or put together of some
            answer, making = replace(answer, making=making), 0.0
            before.append(answer)


def compute_of(experiment: Experiment, plan: Plan) -> Compute | None:
    """What the distilled student's training costs against its control's; None where nobody asks.

    A teacher whose answers are stored is counted once a row and view; of stages before the last, whenever it is asked. A last
    training that all arms have alike is not counted.

    Raises:
        LimbeckError: the recipe asks for a control at equal compute, and what is done cannot be counted here.
    """
    regime = experiment.regime.core
    control = regime.arms(plan).get("control")
    countable = plan.teacher is not None and plan.teacher.module is not None
    if control is None or not (experiment.equal_compute or (experiment.splits.task.gives == "tokens" and countable)):
        return None
    if experiment.store and plan.teacher is not None and (codec := plan.coded):
        plan = replace(plan, teacher=CodedTeacher(plan.teacher, codec))  # so that its head's work is counted once, too
    stages = regime.stages(plan)
    own = control_stage(control, plan)
    if own.training.total < sum(stage.training.total for stage in stages):
        _refuse("its control has several trainings, as the student has", experiment)
        return None
    costs = [step_cost(stage, plan.device) for stage in stages]
    step = step_cost(own, plan.device).student
    asked = any(term.needs().teacher for stage in stages for term in stage.terms)
    if asked and not any(cost.teacher for cost in costs):
        _refuse("the teacher multiplies no matrices here (is it served, or stored outputs?)", experiment)
        return None
    if not step:
        _refuse("the student has no product of matrices and no convolution", experiment)
        return None
    spent = sum(stage.training.total * cost.whole for stage, cost in zip(stages, costs, strict=True))
    if experiment.store:
        last, views = costs[-1], [view for view in plan.needed_views if view or plan.views == 0]
        row = last.teacher / plan.training.batch_size
        spent += row * len(experiment.splits.train) * len(views) - last.teacher * plan.training.total
    return Compute(spent, step, own.training.total)


def _refuse(why: str, experiment: Experiment) -> None:
    """Says so if the recipe asked for it."""
    if experiment.equal_compute:
        raise LimbeckError(
            f"'evidence.equal-compute' needs to know what a step costs, and here it cannot be counted: {why}. Leave it out; the "
            "control with as many steps stays."
        )
