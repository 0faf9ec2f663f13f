"""From trained arms to evidence: every arm is asked about the test part once, and timed beside the teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.advice.preflight import answers_by, score_of
from limbeck.config import digest
from limbeck.data.asked import asked
from limbeck.data.batch import NO_LABEL, REAL, SUPERVISED
from limbeck.data.examples import Examples
from limbeck.data.measure import Measure
from limbeck.data.task import Answered, at_tokens
from limbeck.evidence.efficiency import compare_efficiency
from limbeck.evidence.records import Efficiency, Training
from limbeck.evidence.results import ArmResult, ArmResults
from limbeck.evidence.schema import Counts, Evidence
from limbeck.losses.divergences import ForwardKl
from limbeck.losses.storages import stored
from limbeck.models.adapters import merged
from limbeck.models.identity import architecture
from limbeck.objective.evaluate import distances
from limbeck.regimes.budget import EQUAL_COMPUTE, Compute
from limbeck.regimes.imagined import WITH_DATA
from limbeck.regimes.plan import Plan
from limbeck.regimes.pupils import PART
from limbeck.run.experiment import Experiment
from limbeck.run.preflight import paired
from limbeck.signals.capture import show
from limbeck.teachers.teacher import Teacher
from limbeck.training.workshop import Trained

_BULK = 64
_MANY = 6  # trainings that are told one by one
_SINGLE = 32  # rows that are timed one by one, in turns


def answers_of(module: nn.Module, examples: Examples, side: str, device: str) -> Answered:
    """What a model answers to the rows as they are."""
    module.to(device)
    return asked(lambda batch: show(module, batch.columns(side))["logits"], examples, device)


@torch.no_grad()
def apart(module: nn.Module, teacher: Teacher, examples: Examples, device: str) -> Tensor:
    """The forward KL from the teacher at each token that has a label, float32 [M], in the order of `answers_of`."""
    module.to(device)
    found = []
    for ids in torch.split(examples.rows, _BULK):
        batch = examples.batch(ids, torch.zeros_like(ids)).to(device)
        rows, place = examples.task.rows(batch)
        sides = (
            show(module, batch.columns("student"))["logits"],
            teacher.observe(batch, frozenset({"logits"}))["logits"],
        )
        assert place is not None
        ours, theirs = (stored(one).at(place[rows.masks[SUPERVISED]]) for one in sides)
        found.append(distances(ForwardKl(), cast(Any, ours), theirs).cpu())
    return torch.cat(found)


@dataclass(frozen=True)
class Measured:
    """Results of all arms on the test part, the true answers [M] (of numbers [M, d]), and whose they are, int64 [M]."""

    arms: ArmResults
    labels: NDArray[Any]
    example: NDArray[np.int64]


def measure(
    experiment: Experiment,
    plan: Plan,
    trained: Mapping[str, Sequence[Trained]],
    teacher: Trained | None,
    compute: Compute | None = None,
    before: Evidence | None = None,
) -> Measured:
    """Asks every arm about the test part, and times the first students and the teacher in turns.

    ``trained``: by arm, one a seed. ``teacher``: how the teacher was trained, if it was trained here; ``plan`` has it.
    ``compute``: what their trainings took, if that was counted. ``before``: evidence of these very models, which are not timed
    again.
    """
    test, device = experiment.splits.test, plan.device
    if before is None:
        costs = _costs(experiment, plan, {name: _delivered(one[0]) for name, one in trained.items()})
    else:
        costs = {name: arm.efficiency for name, arm in before.arms.present().items() if arm.efficiency}
    given = {
        name: [answers_of(_delivered(one), test, "student", device) for one in arms] for name, arms in trained.items()
    }
    told = {name: [one.logits for one in answers] for name, answers in given.items()}
    apart_read = test.as_read_by("teacher") is not test
    if test.task.gives == "tokens" and plan.teacher is not None and plan.teacher.provides.unseen and not apart_read:
        for name, arms in trained.items():
            far = [apart(_delivered(one), plan.teacher, test, device) for one in arms]
            told[name] = [torch.cat([own, one[:, None]], 1) for own, one in zip(told[name], far, strict=True)]
    spent = _spent(compute)
    results = {
        name: ArmResult(
            logits=[one.numpy() for one in told[name]],
            seeds=experiment.seeds,
            curves=[curve(one) for one in arms],
            seconds=[one.whole_seconds for one in arms],
            efficiency=costs.get(name),
            flops=spent.get(name),
            trainings=_trainings(arms[0]),
        )
        for name, arms in trained.items()
    }
    if plan.teacher is not None and plan.teacher.provides.unseen and not in_turn(experiment, plan):
        theirs = answers_by(plan.teacher, test, device)
        results["teacher"] = ArmResult(
            logits=[theirs.logits.numpy()],
            truth=(theirs.labels.numpy(), theirs.example.numpy()) if apart_read else None,
            curves=[curve(teacher)] if teacher else (),
            seconds=[teacher.whole_seconds] if teacher else (),
            trainings=_trainings(teacher) if teacher else (),
            efficiency=costs.get("teacher"),
        )
    truth = given["distilled"][0]
    return Measured(ArmResults(**results), truth.labels.numpy(), truth.example.numpy())


def in_turn(experiment: Experiment, plan: Plan) -> bool:
    """Whether each of several teachers is there for one of the tasks that come one after another: their mean is no teacher."""
    several = plan.teacher is not None and len(plan.teacher.provides.members) > 1
    return several and bool(experiment.regime.exams(plan))


def _delivered(trained: Trained) -> nn.Module:
    """The model as it would be delivered: with its adapters merged, if it has any."""
    return merged(trained.module())


def said(test: Examples, position: int, answers: NDArray[Any]) -> Any:
    """The answers [K] to a test example as a delivered student gives them."""
    row, task = test.rows[position : position + 1], test.task
    item, labels, places = test.table.raw(int(row)), test.labels[row], None
    if at_tokens(task):
        places = cast(Any, test.table.reader).places([item])
        if task.named:  # a tag for each token
            width = places.shape[1]
            labels = F.pad(labels, (0, max(0, width - labels.shape[1])), value=NO_LABEL)[:, :width]
    flat = labels.flatten()
    known = flat.isfinite() if task.gives == "numbers" else flat >= 0
    flat[known.nonzero()[: answers.size, 0]] = torch.from_numpy(answers).flatten().to(flat)
    return task.said(flat.view_as(labels), [item], places, test.classes)[0]


def _spent(compute: Compute | None) -> dict[str, float]:
    """FLOPs of one training by arm, where they were counted."""
    if compute is None:
        return {}
    longer = compute.control_step * compute.matched_steps
    return {"control": compute.control, EQUAL_COMPUTE: longer, "distilled": compute.distilled}


def _costs(experiment: Experiment, plan: Plan, students: dict[str, nn.Module]) -> dict[str, Efficiency]:
    test = experiment.splits.test
    few = test.batch(test.rows[:_BULK], torch.zeros_like(test.rows[:_BULK]))

    def placed(module: nn.Module, side: str) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
        columns = few.columns(side)
        return module, {name: value[:_SINGLE] for name, value in columns.items()}, columns

    kinds = {name: digest(architecture(module)) for name, module in students.items()}
    kinds = {name: next(one for one in reversed(kinds) if kinds[one] == kind) for name, kind in kinds.items()}
    models = {name: placed(students[name], "student") for name in dict.fromkeys(kinds.values())}
    if plan.teacher and plan.teacher.module is not None:
        models["teacher"] = placed(plan.teacher.module, "teacher")
    costs = compare_efficiency(models, device=plan.device)
    return costs | {name: costs[like] for name, like in kinds.items()}  # what is built alike costs the same


def _trainings(trained: Trained) -> list[Training]:
    """All trainings of an arm, in their order."""
    return [
        Training(
            name=one.name,
            steps=int(one.points[-1]["step"]) if one.points else 0,
            seconds=one.seconds,
            making=one.making,
        )
        for one in (*trained.before, *trained.of, trained)
        if one.seconds or one.points  # what was only put together was not trained
    ]


def curve(trained: Trained) -> list[dict[str, Any]]:
    """The learning curve as the report reads it, of all trainings of an arm one after another."""
    own, rest, done, found = ("loss", "parts"), ("step", "loss", "parts", "kept"), 0, list[dict[str, Any]]()
    for one in (*trained.before, trained):
        for point in one.points:
            validation = {name: value for name, value in point.items() if name not in rest}
            found.append(
                {"step": done + point["step"], **{name: point[name] for name in own}, "validation": validation}
            )
        done = found[-1]["step"] if found else done
    return found


def counts(experiment: Experiment) -> Counts:
    """How much data there was."""
    splits = experiment.splits
    return Counts(
        train=len(splits.train),
        labelled=len(splits.train.labelled()),
        validation=len(splits.validation),
        test=len(splits.test),
        classes=len(splits.classes),
        outputs=splits.task.outputs,
    )


def notes(
    experiment: Experiment,
    plan: Plan,
    trained: Mapping[str, Sequence[Trained]],
    teacher: Trained | None,
    compute: Compute | None = None,
) -> list[str]:
    """What a reader must know to read the figures rightly."""
    splits = experiment.splits
    labelled, every = len(splits.train.labelled()), len(splits.train)
    told = []
    if WITH_DATA in trained:
        keeps = experiment.training.keep == "best"
        told.append(
            "The distilled student saw no training example: it learnt from made pictures, by what the teacher says of them. "
            f"The control learnt from the {labelled:,} labels of the training part, and 'distilled with data' from the teacher's "
            f"answers to all its {every:,} examples; who has no data can train neither."
            + " Of its weights those are kept that do best on the validation part, which is data too."
            * keeps
        )
    elif every > labelled:
        pseudo = "pseudo_labels" in trained
        shared = any(term.mask == REAL for term in plan.without_teacher)
        teachers = "the teacher's" if experiment.regime.taught else "its teachers'"
        who = "The distilled student and the one of hard pseudo-labels" if pseudo else "The distilled student"
        told.append(
            f"Every student saw the same {labelled:,} labels. {who} also "
            f"saw {every - labelled:,} training examples without their labels, through {teachers} answers; the control "
            + ("saw them too, without these answers." if shared else "could not use them.")
            + " The attribution separates what the further data did from what the soft targets did." * pseudo
            + " The control with all labels saw those that are hidden from the others." * ("ceiling" in trained)
        )
    else:
        told.append(f"Every student saw all {every:,} training examples with their labels.")
    several = len(plan.teacher.provides.members) if plan.teacher else 0
    who = f"The teachers are {several} fixed models" if several > 1 else "The teacher is one fixed model"
    here = f"{'some of them ' * (0 < len(experiment.learners) < several)}trained here on the same {labelled:,} labels"
    origin = f"{who}, {here if teacher else 'given'}" if plan.teacher else "Students teach themselves or each other"
    told.append(
        f"{origin}; the interval over seeds speaks of the students' initial weights and orders of data, not of other teachers or "
        "other data."
    )
    partly = plan.teacher is not None and set(plan.teacher.provides.heads or splits.task.heads) < set(splits.task.heads)
    if partly and plan.teacher is not None:
        told.append(
            f"The teacher knows {', '.join(sorted(plan.teacher.provides.heads or ()))} and nothing of the other tasks: it is "
            "judged task by task, and not beside students of all."
        )
    if teacher and "control" in trained and not partly:
        measure = Measure.of(splits.task)
        best, theirs = max(one.metrics[measure.name] for one in trained["control"]), teacher.metrics[measure.name]
        if several > 1 and plan.teacher is not None:
            theirs = score_of(plan.teacher, splits.validation, plan.device)
        if theirs <= best:
            told.append(
                f"The teacher is no better than the control on validation ({measure.value(theirs)} against "
                f"{measure.value(best)}): there may be nothing to learn from it."
            )
    if before := trained["distilled"][0].before:
        measure = Measure.of(splits.task)
        names = [one.name.rpartition(",")[0].removeprefix("distilled, ") for one in before]
        told_of = [
            f"{name} {measure.value(one.metrics[measure.name])}" for name, one in zip(names, before, strict=True)
        ]
        each = ", ".join(ends(told_of))
        last = measure.value(trained["distilled"][0].metrics[measure.name])
        told.append(
            f"Other trainings belong to the distilled student's; of the first seed, by their {measure.name} on validation: "
            f"{each}; the student itself {last}."
        )
    if parts := {name: value for name, value in trained["distilled"][0].metrics.items() if name.startswith(PART)}:
        measure = Measure.of(splits.task)
        each = ", ".join(f"{name.removeprefix(PART)} {measure.value(value)}" for name, value in parts.items())
        told.append(f"Parts of the distilled student of the first seed, by their {measure.name} on validation: {each}.")
    if compute is not None:
        told.append(_computed(compute, EQUAL_COMPUTE in trained))
    if len(splits.train.labelled()) < experiment.training.batch_size:
        told.append(
            "The control has fewer labelled examples than a batch, so each of its batches repeats some of them."
        )
    if splits.test.as_read_by("teacher") is not splits.test:
        told.append(
            "Student and teacher have two tokenizers, so each is scored on the tokens that it reads: compression and bits per "
            "byte compare, perplexity and the accuracy of tokens do not, and their answers are not set against each other "
            "token by token."
        )
    if layers := paired(plan.terms, experiment.terms):
        told.append(f"The recipe's rules found these layers, the student's first: {layers}.")
    kept = trained["distilled"][0].points[-1].get("kept", {}) if splits.task.named else {}
    for name, shares in kept.items():
        told.append(_kept(name, shares, splits.classes))
    if plan.context.donor is not None and len({one.fingerprint for one in trained["distilled"]}) < len(
        experiment.seeds
    ):
        told.append("Some seeds gave the same weights: nothing in this training depends on the seed.")
    return told


def _computed(compute: Compute, matched: bool) -> str:
    """What the teacher's passes cost, and whether a control was given as much."""
    said = (
        f"By the floating-point operations of its steps, training the distilled student took {compute.ratio:.2g} times the "
        "compute of its control, the teacher's passes included and the teacher's own training not."
    )
    if not matched:
        return (
            f"{said} That control had as many steps; 'evidence: {{equal-compute: true}}' adds one with as much compute."
        )
    if compute.matched_steps == compute.steps:
        return f"{said} So the control at equal compute has no more steps than the other, and is the same."
    return f"{said} The control at equal compute had {compute.matched_steps:,} steps in place of {compute.steps:,}."


def _kept(name: str, shares: Sequence[float | None], classes: Sequence[str]) -> str:
    """What a gate let through, over the whole training of the first seed, class by class."""
    each = [
        f"{label} {100 * share:.0f} %"
        for label, share in zip((*classes, "no label"), shares, strict=True)
        if share is not None
    ]
    least = min(share for share in shares if share is not None)
    warning = " At least one class was hardly learnt from." if least < 0.05 else ""
    return f"The gate of {name} let through, by class: {', '.join(each)}.{warning}"


def ends(told: Sequence[str]) -> list[str]:
    """All of them if they are few, else the first and the last ones, and between these how many are left out."""
    if len(told) <= _MANY:
        return list(told)
    half = _MANY // 2
    return [*told[:half], f"{len(told) - 2 * half} more", *told[-half:]]
