"""What there is to say of several teachers, from the test part."""

from collections.abc import Mapping, Sequence

import torch

from limbeck.advice.preflight import answers_by
from limbeck.data.examples import Examples
from limbeck.evidence.besides import Teachers
from limbeck.evidence.exam import Exam
from limbeck.evidence.teachers import teachers
from limbeck.regimes.plan import Plan
from limbeck.run.experiment import Experiment
from limbeck.run.measure import Measured, in_turn
from limbeck.teachers.ensemble import WEIGHTS
from limbeck.teachers.member import OneOf
from limbeck.teachers.teacher import Teacher
from limbeck.training.workshop import Trained

_ROWS = 256


def teachers_of(
    experiment: Experiment, plan: Plan, trained: Mapping[str, Sequence[Trained]], measured: Measured
) -> Teachers | None:
    """Each teacher by itself, and how they differ; None where there are not several that can be asked about the test part.

    Teachers that read other tokens than the student are left out: their answers are at other places. Of those that know a task
    each `limbeck.evidence.tasks` tells, and of those that are there for one in turn the student's exams.
    """
    teacher, test, classes = plan.teacher, experiment.splits.test, experiment.splits.classes
    if teacher is None or not teacher.provides.interchangeable or not teacher.provides.unseen:
        return None
    if in_turn(experiment, plan):
        return None
    if test.as_read_by("teacher") is not test:
        return None
    names = list(teacher.provides.members)
    told = {name: answers_by(OneOf(teacher, name), test, plan.device).logits.numpy() for name in names}
    exam = Exam.of(measured.labels, classes, test.task, measured.example)
    weights = dict(zip(names, _mean_weights(teacher, test, plan.device), strict=True))
    return teachers(exam, told, measured.arms.distilled.logits, weights, _routed(names, trained["distilled"]))


def _mean_weights(teacher: Teacher, examples: Examples, device: str) -> list[float]:
    total = torch.zeros(len(teacher.provides.members), dtype=torch.float64)
    for ids in torch.split(examples.rows, _ROWS):
        batch = examples.batch(ids, torch.zeros_like(ids)).to(device)
        total += teacher.observe(batch, frozenset({WEIGHTS}))[WEIGHTS].double().sum(0).cpu()
    return (total / len(examples)).tolist()


def _routed(names: Sequence[str], students: Sequence[Trained]) -> dict[str, float]:
    """The mean share that a routing term gave each, over the steps since the last evaluation but one."""
    parts = [student.points[-1]["parts"] for student in students if student.points]
    found = {name: [one[key] for one in parts for key in one if key.endswith(f".{name}")] for name in names}
    return {name: sum(shares) / len(shares) for name, shares in found.items() if shares}
