"""What arms left behind, before it is weighed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.errors import LimbeckError
from limbeck.evidence.records import Efficiency, Training

Logits = np.ndarray[Any, np.dtype[Any]]
Curve = Sequence[
    Mapping[str, Any]
]  # points {"step": int, "loss": float, "parts": {...}, "validation": {"accuracy": ...}}; by the task's measure


@dataclass(frozen=True)
class ArmResult:
    """What one arm left behind: everything is in the order of ``seeds``.

    ``logits``: one array [M, C] a seed over the same answers in the same order (the teacher: just one); see `Exam`.
    ``seeds``: the seeds; arms are paired by them. Empty for the teacher.
    ``curves``: one curve a seed, for the report and the number of steps. ``seconds``: a number a seed, of training and of making
    what is learnt from. ``flops``: of one seed's training. ``trainings``: all of the first seed's, in their order. ``truth``:
    labels and whose they are, of a teacher whose answers are at other places than the students', as with a tokenizer of its own;
    None: as theirs.
    """

    logits: Sequence[Logits]
    seeds: Sequence[int] = ()
    curves: Sequence[Curve] = ()
    seconds: Sequence[float] = ()
    efficiency: Efficiency | None = None
    flops: float | None = None
    trainings: Sequence[Training] = ()
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


def seeds_of(name: str, arm: ArmResult) -> tuple[int, ...]:
    """The arm's seeds, one a run; the teacher's only run is numbered 0.

    Raises:
        LimbeckError: there is no run, or not a seed of its own for each.
    """
    seeds = tuple(arm.seeds) if arm.seeds else (0,) if name == "teacher" else ()
    if not arm.logits or len(seeds) != len(arm.logits) or len(set(seeds)) != len(seeds):
        raise LimbeckError(
            f"Arm {name!r} has predictions of {len(arm.logits)} runs and the seeds {list(arm.seeds)}: "
            "there must be at least one run, and a seed of its own for each."
        )
    return seeds
