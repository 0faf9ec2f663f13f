"""From the predictions of all arms to the evidence."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import LimbeckError
from limbeck.evidence.besides import Retention, Samples, Teachers, Traffic
from limbeck.evidence.comparison import (
    FEW,
    Scores,
    attribution,
    difference,
    gap_closed,
    item_bootstrap,
    keeps,
    mcnemar,
    paired,
)
from limbeck.evidence.exam import Exam
from limbeck.evidence.fidelity import likeness, mean_fidelity
from limbeck.evidence.groups import group_scores
from limbeck.evidence.metrics import check_names
from limbeck.evidence.quality import judged, mean_quality
from limbeck.evidence.records import Arm, Efficiency, Fidelity, GapClosed, Matched, McNemar
from limbeck.evidence.resample import RESAMPLES
from limbeck.evidence.schema import ARMS, Arms, Counts, Evidence, Provenance
from limbeck.evidence.tasks import task_scores
from limbeck.evidence.verdict import SMALLEST_EFFECT, advice, decide, sentence, who, without_data

LITTLE = 0.05  # of the way from the best constant answer to always being right
UNTAUGHT = "More seeds or test examples would not settle it: try more steps, another learning rate or a larger student."
Logits = np.ndarray[Any, np.dtype[Any]]
Curve = Sequence[
    Mapping[str, Any]
]  # points {"step": int, "loss": float, "parts": {...}, "validation": {"accuracy": ...}}; by the task's measure


@dataclass(frozen=True)
class ArmResult:
    """What one arm left behind: everything is in the order of ``seeds``.

    ``logits``: one array [M, C] a seed over the same answers in the same order (the teacher: just one); see `Exam`.
    ``seeds``: the seeds; arms are paired by them. Empty for the teacher.
    ``curves``: one curve a seed, for the report and the number of steps. ``seconds``: training time, one a seed.
    ``flops``: of one seed's training. ``truth``: labels and whose they are, of a teacher whose answers are at other places than
    the students', as with a tokenizer of its own; None: as theirs.
    """

    logits: Sequence[Logits]
    seeds: Sequence[int] = ()
    curves: Sequence[Curve] = ()
    seconds: Sequence[float] = ()
    efficiency: Efficiency | None = None
    flops: float | None = None
    truth: tuple[Logits, Logits] | None = None


@dataclass(frozen=True)
class ArmResults:
    """The arms that were run. ``soft_targets`` only where the objective has more terms than soft targets."""

    distilled: ArmResult
    teacher: ArmResult | None = None
    control: ArmResult | None = None
    final_stage: ArmResult | None = None
    equal_compute: ArmResult | None = None
    ceiling: ArmResult | None = None
    joint: ArmResult | None = None
    apart: ArmResult | None = None
    central: ArmResult | None = None
    pseudo_labels: ArmResult | None = None
    best_single: ArmResult | None = None
    soft_targets: ArmResult | None = None
    off_policy: ArmResult | None = None
    direct: ArmResult | None = None
    with_data: ArmResult | None = None
    fixed_teacher: ArmResult | None = None
    unkept: ArmResult | None = None


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
        {one: dict(zip(_seeds(one, arm), arm.logits, strict=True)) for one, arm in given.items()},
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
        one: {seed: exams[one].scores(z) for seed, z in zip(_seeds(one, arm), arm.logits, strict=True)}
        for one, arm in given.items()
    }
    bounded = task.gives not in ("numbers", "tokens")
    remarks, free = list(notes), "with_data" in scores
    gap = items = mean_pair = None
    tests: tuple[McNemar, ...] = ()
    closed: GapClosed | None = None
    teacher = np.stack(list(scores["teacher"].values())) if "teacher" in scores else None
    if "control" in scores:
        control, distilled = paired(scores["control"], scores["distilled"])
        if not len(control):
            raise LimbeckError(
                f"The control has the seeds {sorted(scores['control'])} and the distilled student "
                f"{sorted(scores['distilled'])}: nothing can be paired. Run both with the same seeds."
            )
        shared = [one for one in scores["control"] if one in scores["distilled"]]
        if len(shared) < max(len(scores["control"]), len(scores["distilled"])):
            remarks.append(f"Only seeds {', '.join(map(str, shared))} have both a control and a distilled student.")
        gap = difference(distilled.mean(1).tolist(), control.mean(1).tolist(), resolution=1 / exam.examples)
        items = item_bootstrap(distilled, control, resamples, seed, bounded)
        if not bounded:
            remarks.append(
                f"The {exam.measure.name} of a single example has no lowest value, so the interval over test examples is the "
                "bootstrap's alone: no exact bound stands behind it where few examples differ."
            )
        elif items.telling is not None and items.telling < FEW:
            remarks.append(
                f"Only {items.telling} of {items.examples:,} test examples tell the distilled student from the control, too "
                "few for the bootstrap alone: the interval over test examples is at least as wide as an exact bound."
            )
        mean_pair = (float(control.mean()), float(distilled.mean()))
        if exam.binary:
            tests = tuple(mcnemar(d == 1, c == 1, one) for d, c, one in zip(distilled, control, shared, strict=True))
        if teacher is not None and not free:
            closed = gap_closed(teacher, control, distilled, resamples, seed, bounded)
    elif why_no_control:
        remarks.append(f"There is no control: {why_no_control.rstrip('.')}.")
    if len({_bytes(z) for z in arms.distilled.logits}) < len(arms.distilled.logits):
        remarks.append("Some seeds gave the very same distilled predictions: they are not independent runs.")
    matched = None
    if "equal_compute" in scores:
        matched = _matched(
            scores["equal_compute"], scores["distilled"], exam, bounded, smallest_effect, resamples, seed
        )
    students = np.stack(list(scores["distilled"].values()))
    about = who(provenance, "teacher" in scores, "unkept" in scores)
    recovered = None
    if "ceiling" in scores and teacher is not None:
        ceiling, distilled = paired(scores["ceiling"], scores["distilled"])
        names = ("student with all labels", "teacher")
        recovered = gap_closed(ceiling, teacher, distilled, resamples, seed, bounded, names)
    verdict, advised = decide(gap, items, smallest_effect), advice(gap, items, smallest_effect, exam.measure)
    told = sentence(gap, items, mean_pair, smallest_effect, why_no_control, exam.measure, about)
    if free and gap and items and mean_pair:
        verdict, advised = "cannot tell", None
        told = without_data(gap, items, mean_pair, exam.measure)
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
        at_equal_compute=matched,
        mcnemar=tests,
        gap_closed=closed,
        gap_recovered=recovered,
        keeps=keeps(teacher, students, margin, resamples, seed, bounded) if teacher is not None else None,
        fidelity=_fidelity(arms, exam),
        teachers=teachers,
        samples=samples,
        retention=retention,
        tasks=by_task,
        groups=group_scores(scores, groups, smallest_effect, resamples, seed, bounded),
        traffic=traffic,
        attribution=attribution(scores, ingredients, resamples, seed, bounded),
        data=data or Counts(test=exam.examples, classes=len(classes), outputs=task.outputs),
        notes=tuple(remarks),
        provenance=provenance or Provenance(seeds=tuple(scores["distilled"])),
    )


def _matched(
    control: Mapping[int, Scores],
    distilled: Mapping[int, Scores],
    exam: Exam,
    bounded: bool,
    smallest_effect: float,
    resamples: int,
    seed: int,
) -> Matched | None:
    """The distilled student against the control that was given as much compute, over the seeds that both have."""
    low, high = paired(control, distilled)
    if not len(low):
        return None
    gap = difference(high.mean(1).tolist(), low.mean(1).tolist(), resolution=1 / exam.examples)
    items = item_bootstrap(high, low, resamples, seed, bounded)
    pair = (float(low.mean()), float(high.mean()))
    return Matched(
        verdict=decide(gap, items, smallest_effect),
        sentence=sentence(gap, items, pair, smallest_effect, None, exam.measure),
        difference=gap,
        item_bootstrap=items,
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


def _seeds(name: str, arm: ArmResult) -> tuple[int, ...]:
    """The arm's seeds, one a run; the teacher's only run is numbered 0."""
    seeds = tuple(arm.seeds) if arm.seeds else (0,) if name == "teacher" else ()
    if not arm.logits or len(seeds) != len(arm.logits) or len(set(seeds)) != len(seeds):
        raise LimbeckError(
            f"Arm {name!r} has predictions of {len(arm.logits)} runs and the seeds {list(arm.seeds)}: "
            "there must be at least one run, and a seed of its own for each."
        )
    return seeds


def _arm(name: str, arm: ArmResult, exam: Exam, metrics: Sequence[str]) -> Arm:
    """Quality of every run of an arm."""
    seeds = _seeds(name, arm)
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
