"""Tasks one after another: what is kept of the earlier ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.evidence.besides import Retained
from limbeck.evidence.schema import Evidence

Matrix = NDArray[np.float64]


def forgetting(matrix: Matrix) -> float | None:
    """Mean over tasks but the last of the best score before the last training less that after it; None with one task.

    ``matrix``: [T, T], the score on task j after training i. Below 0 where the last training helped (Chaudhry et al. 2018,
    arXiv:1801.10112).
    """
    last = len(matrix) - 1
    return (
        float(np.mean([matrix[task:last, task].max() - matrix[last, task] for task in range(last)])) if last else None
    )


def transfer(matrix: Matrix) -> float | None:
    """Backward transfer, mean over tasks but the last of the last score less that when it was learnt; None with one task
    (Lopez-Paz & Ranzato 2017, arXiv:1706.08840).
    """
    last = len(matrix) - 1
    return float(np.mean([matrix[last, task] - matrix[task, task] for task in range(last)])) if last else None


def retained(matrices: Sequence[Matrix]) -> Retained:
    """What an arm kept, from a matrix a seed."""
    each = [(forgetting(one), transfer(one)) for one in matrices]
    lost, moved = ([value for value in column if value is not None] for column in zip(*each, strict=True))
    return Retained(
        matrix=tuple(tuple(row) for row in np.mean(matrices, axis=0).tolist()),
        forgetting=float(np.mean(lost)) if lost else None,
        transfer=float(np.mean(moved)) if moved else None,
        per_seed=tuple(lost),
    )


def shown_retention(evidence: Evidence) -> dict[str, Any] | None:
    """For the report: a table for each arm, of what was learnt by then alone."""
    found, measure = evidence.retention, evidence.measure
    if found is None:
        return None

    def told(arm: Retained) -> str:
        if arm.forgetting is None or arm.transfer is None:
            return "With one task there is nothing to forget."
        lost, moved = (f"{measure.scale * one:.1f}" for one in (arm.forgetting, arm.transfer))
        return f"Forgetting {lost}{measure.unit}, backward transfer {moved}{measure.unit}.".replace(
            "-", "\N{MINUS SIGN}"
        )

    arms = []
    for name in evidence.arms.present():
        if (arm := found.arms.get(name)) is not None:
            rows = [
                {
                    "name": task,
                    "cells": [measure.value(one) if place <= number else "" for place, one in enumerate(row)],
                }
                for number, (task, row) in enumerate(zip(found.tasks, arm.matrix, strict=True))
            ]
            arms.append({"name": name, "rows": rows, "note": told(arm)})
    note = (
        f"{measure.name[:1].upper()}{measure.name[1:]} on the test examples of each task, mean over seeds, answers being any of "
        "all classes. Forgetting: how much lower it is in the end than it was at best, mean over the tasks before the last. "
        "Backward transfer: the end less what it was when the task had just been learnt."
    )
    return {"tasks": found.tasks, "arms": arms, "note": note}
