"""A plan's teacher made ready, and refused if it knows nothing: by itself, in one of several tasks, or as one of several."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from limbeck.advice.preflight import floor_of, score_of
from limbeck.data.examples import Examples
from limbeck.data.measure import Measure
from limbeck.data.task import Task
from limbeck.errors import PreflightError
from limbeck.files import home
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime, train
from limbeck.regimes.walk import walk
from limbeck.run.arms import remembered
from limbeck.run.experiment import Experiment
from limbeck.teachers.by_task import HeadOf
from limbeck.teachers.teacher import Teacher
from limbeck.training.progress import Watcher
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained, Workshop


def ready(experiment: Experiment, workshop: Workshop, out: Path, watcher: Watcher) -> tuple[Plan, Trained | None]:
    """The plan with its teacher ready, and how the teacher was trained, if it was trained here.

    Raises:
        PreflightError: the teacher is no better than an answer that is always the same.
    """
    plan = experiment.plan(home(), experiment.seeds[0], watcher.labelling)
    trained = None
    if plan.teacher_stages:
        trained = walk(remembered(_school(plan.teacher_stages)), workshop, out / "journal" / "teacher.json")
        for one in (*trained.before, trained):
            reused(watcher, one, experiment.splits.task)
    plan = walk(plan.taught(), workshop, out / "journal" / "taught.json").matched()
    _check_teacher(experiment, plan)
    if trained is not None and plan.join is not None:
        _check_members(plan.teacher_stages, (*trained.before, trained))
    return plan, trained


def _school(stages: Sequence[Stage]) -> Regime[Trained]:
    """Those who will teach, one after another; the last one, who remembers the others."""
    for stage in stages[:-1]:
        yield from train(stage)
    return (yield from train(stages[-1]))


def _check_members(stages: Sequence[Stage], trained: Sequence[Trained]) -> None:
    """A mean hides a teacher that knows nothing."""
    for stage, one in zip(stages, trained, strict=True):
        validation, measure = stage.validation, Measure.of(stage.validation.task)
        floor = floor_of(validation)
        if one.metrics[measure.name] <= floor:
            raise PreflightError(
                f"On the validation part the {measure.name} of the {one.name} is {measure.value(one.metrics[measure.name])}, "
                f"and that of {validation.task.constant} {measure.value(floor)}: it has learnt nothing, which the others would "
                "hide. Give its training more steps or another learning rate."
            )


def _check_teacher(experiment: Experiment, plan: Plan) -> None:
    if plan.teacher is None or not plan.teacher.provides.unseen:
        return
    for where, teacher, validation in _exams(plan.teacher, experiment.splits.validation):
        stages, task, measure = plan.teacher_stages, validation.task, Measure.of(validation.task)
        score, floor = score_of(teacher, validation, plan.device), floor_of(validation)
        if math.isnan(score):
            raise PreflightError(
                f"On the validation part the teacher's {measure.name}{where} is no number: the teacher gives NaN. Look at its "
                "weights, and at the precision in which it runs."
            )
        if score > floor:
            continue
        raise PreflightError(
            f"On the validation part the teacher's {measure.name}{where} is {measure.value(score)}, and that of "
            f"{task.constant} {measure.value(floor)}: "
            + (
                f"it has learnt nothing in {sum(one.training.total for one in stages):,} steps of training on "
                f"{len(stages[0].examples):,} labelled rows. Give teacher.training (in Python teacher_training) more steps or "
                "another learning rate, and look at the labels."
                if stages
                else f"it knows nothing of {f'these {task.outputs}' if task.outputs else 'this task'}. Are they in the order "
                "that it was trained with? If it still has to be trained on them, give teacher.training (in Python "
                "teacher_training)."
            )
        )


def _exams(teacher: Teacher, validation: Examples) -> Iterator[tuple[str, Teacher, Examples]]:
    """What a teacher must know something of: the task, or each of several that it knows, as a mean hides one."""
    heads, known = validation.task.heads, teacher.provides.heads
    if not heads:
        yield "", teacher, validation
    for name in heads if known is None else sorted(known):
        yield f" in the task {name!r}", HeadOf(teacher, validation.task, name), validation.only(name).labelled()


def reused(watcher: Watcher, trained: Trained, task: Task) -> None:
    """Says that a training was found."""
    if trained.reused:
        measure = Measure.of(task)
        found = f"{measure.name} {measure.value(trained.metrics[measure.name])}"
        watcher.say(f"{trained.name}: trained before, {found} on validation")
