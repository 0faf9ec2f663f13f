"""From the predictions of all arms to the evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.errors import LimbeckError
from limbeck.evidence.comparison import (
    FEW,
    attribution,
    difference,
    gap_closed,
    item_bootstrap,
    keeps,
    mcnemar,
    paired,
)
from limbeck.evidence.fidelity import fidelity, mean_fidelity
from limbeck.evidence.metrics import check_names
from limbeck.evidence.quality import mean_quality, quality
from limbeck.evidence.resample import RESAMPLES
from limbeck.evidence.schema import (
    ARMS,
    Arm,
    Arms,
    Counts,
    Efficiency,
    Evidence,
    Fidelity,
    GapClosed,
    McNemar,
    Provenance,
)
from limbeck.evidence.verdict import SMALLEST_EFFECT, advice, decide, percent, sentence

LITTLE = 0.05  # of the way from always answering the commonest class to always being right
UNTAUGHT = "More seeds or test examples would not settle it: try more steps, another learning rate or a larger student."
Logits = np.ndarray[Any, np.dtype[Any]]
Curve = Sequence[
    Mapping[str, Any]
]  # points {"step": int, "loss": float, "parts": {...}, "validation": {"accuracy": ...}}


@dataclass(frozen=True)
class ArmResult:
    """What one arm left behind: everything is in the order of ``seeds``.

    ``logits``: one array [N, C] a seed over the same test examples in the same order (the teacher: just one).
    ``seeds``: the seeds; arms are paired by them. Empty for the teacher.
    ``curves``: one curve a seed, for the report and the number of steps. ``seconds``: training time, one a seed.
    """

    logits: Sequence[Logits]
    seeds: Sequence[int] = ()
    curves: Sequence[Curve] = ()
    seconds: Sequence[float] = ()
    efficiency: Efficiency | None = None


@dataclass(frozen=True)
class ArmResults:
    """The arms that were run. ``soft_targets`` only where the objective has more terms than soft targets."""

    distilled: ArmResult
    teacher: ArmResult | None = None
    control: ArmResult | None = None
    pseudo_labels: ArmResult | None = None
    soft_targets: ArmResult | None = None


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
) -> Evidence:
    """Weighs all arms and says whether the teacher helped.

    ``labels``: [N] true classes of the test examples. ``classes``: C names. ``metrics``: further metrics by name.
    ``data``: how much data there was; the test part is counted here if it is left out. ``smallest_effect`` and
    ``margin``: absolute accuracies. ``why_no_control``: the regime's reason, if it has none. ``ingredients``: what the
    objective adds to hard answers, in words. ``notes``: honest remarks for the reader. ``resamples`` and ``seed``: of
    the bootstrap.

    Raises:
        LimbeckError: predictions that do not fit the labels or are not finite, an unknown metric, seeds that do not
            fit the runs, or arms that share no seed.
    """
    check_names(list(metrics))
    given = {one: arm for one in ARMS if (arm := getattr(arms, one)) is not None}
    built = {one: _arm(one, arm, labels, classes, metrics) for one, arm in given.items()}
    truth = np.asarray(labels)
    right = {
        one: {seed: np.asarray(z).argmax(1) == truth for seed, z in zip(_seeds(one, arm), arm.logits, strict=True)}
        for one, arm in given.items()
    }
    remarks = list(notes)
    gap = items = mean_pair = None
    tests: tuple[McNemar, ...] = ()
    closed: GapClosed | None = None
    teacher = np.stack(list(right["teacher"].values())) if "teacher" in right else None
    if "control" in right:
        control, distilled = paired(right["control"], right["distilled"])
        if not len(control):
            raise LimbeckError(
                f"The control has the seeds {sorted(right['control'])} and the distilled student "
                f"{sorted(right['distilled'])}: nothing can be paired. Run both with the same seeds."
            )
        shared = [one for one in right["control"] if one in right["distilled"]]
        if len(shared) < max(len(right["control"]), len(right["distilled"])):
            remarks.append(f"Only seeds {', '.join(map(str, shared))} have both a control and a distilled student.")
        gap = difference(distilled.mean(1).tolist(), control.mean(1).tolist(), resolution=1 / len(truth))
        items = item_bootstrap(distilled, control, resamples, seed)
        if items.telling is not None and items.telling < FEW:
            remarks.append(
                f"Only {items.telling} of {items.examples:,} test examples tell the distilled student from the control, too "
                "few for the bootstrap alone: the interval over test examples is at least as wide as an exact bound."
            )
        mean_pair = (float(control.mean()), float(distilled.mean()))
        tests = tuple(mcnemar(d, c, one) for d, c, one in zip(distilled, control, shared, strict=True))
        if teacher is not None:
            closed = gap_closed(teacher, control, distilled, resamples, seed)
    elif why_no_control:
        remarks.append(f"There is no control: {why_no_control.rstrip('.')}.")
    if len({_bytes(z) for z in arms.distilled.logits}) < len(arms.distilled.logits):
        remarks.append("Some seeds gave the very same distilled predictions: they are not independent runs.")
    students = np.stack(list(right["distilled"].values()))
    verdict, advised = decide(gap, items, smallest_effect), advice(gap, items, smallest_effect)
    if untaught := _untaught(truth, right):
        remarks.append(untaught)
        advised = advised if verdict == "helped" else f"{untaught} {UNTAUGHT}"
    return Evidence(
        name=name,
        verdict=verdict,
        sentence=sentence(gap, items, mean_pair, smallest_effect, why_no_control),
        advice=advised,
        smallest_effect=smallest_effect,
        arms=Arms(**built),
        difference=gap,
        item_bootstrap=items,
        mcnemar=tests,
        gap_closed=closed,
        keeps=keeps(teacher, students, margin, resamples, seed) if teacher is not None else None,
        fidelity=_fidelity(arms, labels),
        attribution=attribution(right, ingredients, resamples, seed),
        data=data or Counts(test=len(truth), classes=len(classes)),
        notes=tuple(remarks),
        provenance=provenance or Provenance(seeds=tuple(right["distilled"])),
    )


def _untaught(truth: Logits, right: Mapping[str, Mapping[int, Logits]]) -> str | None:
    """Says so if no student is measurably better than always answering the commonest class, or hardly better."""
    from scipy.stats import binom

    floor = float(np.bincount(truth).max() / len(truth))
    best = max(float(one.mean()) for name, runs in right.items() if name != "teacher" for one in runs.values())
    by_luck = float(binom.ppf(0.975, len(truth), floor)) / len(truth)
    if best > max(by_luck, floor + LITTLE * (1 - floor)):
        return None
    return (
        f"No student is clearly better than always answering the commonest class (the best is right on {percent(best)} of "
        f"the test examples, that class is {percent(floor)} of them): hardly anything was learnt, so the comparison says "
        "little about the teacher."
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


def _arm(name: str, arm: ArmResult, labels: Logits, classes: Sequence[str], metrics: Sequence[str]) -> Arm:
    """Quality of every run of an arm."""
    seeds = _seeds(name, arm)
    per_seed = tuple(
        quality(z, labels, metrics, classes, f"The predictions of {name.replace('_', ' ')}, seed {seed},")
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
        steps=tuple(steps) if steps and len(steps) == len(arm.logits) else None,
    )


def _fidelity(arms: ArmResults, labels: Logits) -> dict[str, Fidelity]:
    """Fidelity to the teacher, of the distilled student and, to compare it with, of the control."""
    if arms.teacher is None:
        return {}
    target = arms.teacher.logits[0]
    students = {"distilled": arms.distilled, "control": arms.control}
    return {
        name: mean_fidelity([fidelity(target, z, labels) for z in arm.logits])
        for name, arm in students.items()
        if arm is not None
    }


def _bytes(logits: Logits) -> bytes:
    return np.ascontiguousarray(logits).tobytes()
