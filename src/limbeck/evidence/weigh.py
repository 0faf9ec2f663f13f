"""From the predictions of all arms to the evidence."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import numpy as np

from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import LimbeckError
from limbeck.evidence.against import Comparing
from limbeck.evidence.besides import Retention, Samples, Teachers, Traffic
from limbeck.evidence.comparison import (
    Scores,
    attribution,
    gap_closed,
    keeps,
    mcnemar,
    paired,
)
from limbeck.evidence.exam import Exam
from limbeck.evidence.fidelity import likeness, mean_fidelity
from limbeck.evidence.groups import group_scores
from limbeck.evidence.metrics import check_names
from limbeck.evidence.quality import judged, mean_quality
from limbeck.evidence.records import Arm, Fidelity, McNemar
from limbeck.evidence.resample import RESAMPLES
from limbeck.evidence.results import ArmResult, ArmResults, Logits, seeds_of
from limbeck.evidence.schema import ARMS, Arms, Counts, Evidence, Provenance
from limbeck.evidence.tasks import task_scores
from limbeck.evidence.verdict import SMALLEST_EFFECT, advice, decide, sentence, who, without_data

LITTLE = 0.05  # of the way from the best constant answer to always being right
UNTAUGHT = "More seeds or test examples would not settle it: try more steps, another learning rate or a larger student."


def weigh(
    arms: ArmResults,
    labels: Logits,
    classes: Sequence[str],
    *,
    name: str = "run",
    metrics: Sequence[str] = (),
    data: Counts | None = None,
    smallest_effect: float = SMALLEST_EFFECT,
    margin: float = 0.02,
    why_no_control: str | None = None,
    ingredients: str = "soft targets",
    notes: Sequence[str] = (),
    provenance: Provenance | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    task: Task = CLASSES,
    example: Logits | None = None,
    samples: Samples | None = None,
    retention: Retention | None = None,
    traffic: Traffic | None = None,
    teachers: Teachers | None = None,
    taught: AbstractSet[str] | None = None,
    groups: Sequence[str] | None = None,
) -> Evidence:
    """Weighs all arms and says whether the teacher helped.

    ``labels``: [M] the true answers, of numbers [M, d]. ``classes``: the names of the model's outputs. ``metrics``: further
    metrics by name. ``data``: how much data there was; the test part is counted here if it is left out.
    ``smallest_effect`` and ``margin``: absolute differences of scores. ``why_no_control``: the regime's reason, if it has
    none. ``ingredients``: what the objective adds to hard answers, in words. ``notes``: honest remarks for the reader.
    ``resamples`` and ``seed``: of the bootstrap. ``example``: [M], whose answer each is, ascending; None if each example
    has one. ``samples``: what language models write. ``retention``: what is kept of tasks one after another.
    ``taught``: of several tasks those that the teacher knows, None for all; one that does not know all is judged task by task,
    and is no arm.
    ``traffic``: what crossed between clients and their server. ``groups``: whose each test example is, if that is known.

    Raises:
        LimbeckError: predictions that do not fit the labels or are not finite, an unknown metric, seeds that do not
            fit the runs, or arms that share no seed.
    """
    exam = Exam.of(labels, classes, task, example)
    check_names(metrics, task, classes)
    given = {one: arm for one in ARMS if (arm := getattr(arms, one)) is not None}
    by_task = task_scores(
        exam,
        {one: dict(zip(seeds_of(one, arm), arm.logits, strict=True)) for one, arm in given.items()},
        taught,
        smallest_effect,
        resamples,
        seed,
    )
    if taught is not None and len(taught) < len(task.heads):
        given.pop("teacher", None)
        arms = replace(arms, teacher=None)
    exams = {
        one: exam if arm.truth is None else Exam.of(arm.truth[0], classes, task, arm.truth[1])
        for one, arm in given.items()
    }
    built = {one: _arm(one, arm, exams[one], metrics) for one, arm in given.items()}
    scores = {
        one: {seed: exams[one].scores(z) for seed, z in zip(seeds_of(one, arm), arm.logits, strict=True)}
        for one, arm in given.items()
    }
    how = Comparing(exam, task.gives not in ("numbers", "tokens"), smallest_effect, resamples, seed)
    remarks, free = list(notes), arms.with_data is not None
    teacher = np.stack(list(scores["teacher"].values())) if "teacher" in scores else None
    beside = closed = None
    tests: tuple[McNemar, ...] = ()
    if "control" in scores:
        beside = how.beside(scores["control"], scores["distilled"])
        if beside is None:
            raise LimbeckError(
                f"The control has the seeds {sorted(scores['control'])} and the distilled student "
                f"{sorted(scores['distilled'])}: nothing can be paired. Run both with the same seeds."
            )
        remarks += how.remarks(beside, max(len(scores["control"]), len(scores["distilled"])))
        if exam.binary:
            each = zip(beside.high, beside.low, beside.seeds, strict=True)
            tests = tuple(mcnemar(d == 1, c == 1, one) for d, c, one in each)
        if teacher is not None and not free:
            closed = gap_closed(teacher, beside.low, beside.high, resamples, seed, how.bounded)
    elif why_no_control:
        remarks.append(f"There is no control: {why_no_control.rstrip('.')}.")
    if len({_bytes(z) for z in arms.distilled.logits}) < len(arms.distilled.logits):
        remarks.append("Some seeds gave the very same distilled predictions: they are not independent runs.")
    students = np.stack(list(scores["distilled"].values()))
    about = who(provenance, "teacher" in scores, "unkept" in scores)
    recovered = None
    if "ceiling" in scores and teacher is not None:
        ceiling, distilled = paired(scores["ceiling"], scores["distilled"])
        names = ("student with all labels", "teacher")
        recovered = gap_closed(ceiling, teacher, distilled, resamples, seed, how.bounded, names)
    gap, items, pair = (beside.gap, beside.items, beside.pair) if beside else (None, None, None)
    verdict, advised = decide(gap, items, smallest_effect), advice(gap, items, smallest_effect, exam.measure)
    told = sentence(gap, items, pair, smallest_effect, why_no_control, exam.measure, about)
    if free and gap and items and pair:
        verdict, advised = "cannot tell", None
        told = without_data(gap, items, pair, exam.measure)
    if untaught := _untaught(exam, scores):
        remarks.append(untaught)
        advised = advised if verdict == "helped" else f"{untaught} {UNTAUGHT}"
    return Evidence(
        name=name,
        verdict=verdict,
        sentence=told,
        advice=advised,
        smallest_effect=smallest_effect,
        arms=Arms(**built),
        difference=gap,
        item_bootstrap=items,
        at_equal_compute=how.matched(scores["equal_compute"], scores["distilled"])
        if "equal_compute" in scores
        else None,
        mcnemar=tests,
        gap_closed=closed,
        gap_recovered=recovered,
        keeps=keeps(teacher, students, margin, resamples, seed, how.bounded) if teacher is not None else None,
        fidelity=_fidelity(arms, exam),
        teachers=teachers,
        samples=samples,
        retention=retention,
        tasks=by_task,
        groups=group_scores(scores, groups, smallest_effect, resamples, seed, how.bounded),
        traffic=traffic,
        attribution=attribution(scores, ingredients, resamples, seed, how.bounded),
        data=data or Counts(test=exam.examples, classes=len(classes), outputs=task.outputs),
        notes=tuple(remarks),
        provenance=provenance or Provenance(seeds=tuple(scores["distilled"])),
    )


def _untaught(exam: Exam, scores: Mapping[str, Mapping[int, Scores]]) -> str | None:
    """Says so if no student is measurably better than the best answer that is always the same, or hardly better."""
    from scipy.stats import binom

    floor, measure = exam.floor(), exam.measure
    runs = [one for name, several in scores.items() if name != "teacher" for one in several.values()]
    best = max(runs, key=lambda one: float(one.mean()))
    mean = float(best.mean())
    if exam.binary:
        by_luck = float(binom.ppf(0.975, exam.examples, floor)) / exam.examples
    else:
        by_luck = floor + 1.96 * float(best.std()) / exam.examples**0.5
    if mean > max(by_luck, floor + LITTLE * (1 - floor)):
        return None
    return (
        f"No student is clearly better than {exam.task.constant} ({measure.name}: {measure.value(mean)} for the best one, "
        f"{measure.value(floor)} for that): hardly anything was learnt, so the comparison says little about the teacher."
    )


def _arm(name: str, arm: ArmResult, exam: Exam, metrics: Sequence[str]) -> Arm:
    """Quality of every run of an arm."""
    seeds = seeds_of(name, arm)
    per_seed = tuple(
        judged(exam, z, metrics, f"The predictions of {name.replace('_', ' ')}, seed {seed},")
        for seed, z in zip(seeds, arm.logits, strict=True)
    )
    mean, sd = mean_quality(per_seed)
    steps = [int(curve[-1]["step"]) for curve in arm.curves if curve]
    return Arm(
        seeds=tuple(arm.seeds),
        per_seed=per_seed,
        mean=mean,
        sd=sd,
        efficiency=arm.efficiency,
        training_seconds=tuple(arm.seconds) or None,
        flops=arm.flops,
        steps=tuple(steps) if steps and len(steps) == len(arm.logits) else None,
        trainings=tuple(arm.trainings),
    )


def _fidelity(arms: ArmResults, exam: Exam) -> dict[str, Fidelity]:
    """Fidelity to the teacher, of the distilled student and, to compare it with, of the control."""
    if arms.teacher is None or arms.teacher.truth is not None:
        return {}
    target = arms.teacher.logits[0]
    students = {"distilled": arms.distilled, "control": arms.control}
    return {
        name: mean_fidelity([likeness(exam, target, z) for z in arm.logits])
        for name, arm in students.items()
        if arm is not None
    }


def _bytes(logits: Logits) -> bytes:
    return np.ascontiguousarray(logits).tobytes()
