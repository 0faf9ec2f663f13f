"""Several tasks of one student: how each is done by every arm, and what the teacher and the sharing did for it."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from limbeck.data.measure import ACCURACY
from limbeck.data.task import Head
from limbeck.evidence.besides import TaskScores
from limbeck.evidence.comparison import Scores
from limbeck.evidence.exam import Exam
from limbeck.evidence.partly import gain, gain_cell, means, score_cell, told
from limbeck.evidence.resample import RESAMPLES
from limbeck.evidence.schema import Evidence
from limbeck.evidence.verdict import SMALLEST_EFFECT

_BESIDE = ("control", "apart")
"""Whom the distilled student is compared with."""


def task_scores(
    exam: Exam,
    answers: Mapping[str, Mapping[int, Any]],
    taught: AbstractSet[str] | None = None,
    smallest_effect: float = SMALLEST_EFFECT,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[TaskScores, ...]:
    """The share of right answers to each task, on the test examples that have a label of it; nothing if one thing is asked.

    ``answers``: by arm and seed, logits [M, outputs]. ``taught``: the tasks that the teacher knows; None: all.
    """
    found = []
    for name, head in exam.task.heads.items():
        mine = (exam.labels >= head.start) & (exam.labels < head.stop)
        scores = {
            arm: {one: _right(exam, z, mine, head) for one, z in seeds.items()}
            for arm, seeds in answers.items()
            if arm != "teacher" or taught is None or name in taught
        }
        averages, spreads = means(scores)
        gains = {
            other: gain(scores["distilled"], scores[other], smallest_effect, resamples, seed)
            for other in _BESIDE
            if other in scores and scores[other].keys() & scores["distilled"].keys()
        }
        found.append(
            TaskScores(
                name=name,
                classes=len(head.classes),
                examples=int(mine.sum()),
                floor=float(np.bincount(exam.labels[mine] - head.start).max() / mine.sum()),
                scores=averages,
                sd=spreads,
                gains=gains,
            )
        )
    return tuple(found)


def _right(exam: Exam, logits: Any, mine: Any, head: Head) -> Scores:
    """1 where the answer is right, of the examples that have one."""
    said = np.asarray(logits)[mine][:, head.start : head.stop].argmax(1) + head.start
    right: Scores = (said == exam.labels[mine]).astype(np.float64)
    return right


def shown_tasks(evidence: Evidence) -> dict[str, Any] | None:
    """For the report: a row for each arm, and for each difference; a column for each task."""
    if not evidence.tasks:
        return None
    arms = [name for name in ("teacher", *evidence.arms.present()) if any(name in one.scores for one in evidence.tasks)]
    beside = [name for name in _BESIDE if any(name in one.gains for one in evidence.tasks)]
    columns = [
        {
            "name": one.name,
            "of": f"{one.classes} classes, {one.examples:,} test examples",
        }
        for one in evidence.tasks
    ]
    floor = {
        "label": "Always the commonest class",
        "cells": [(ACCURACY.value(one.floor), None) for one in evidence.tasks],
    }
    rows = [
        {"name": name, "cells": [score_cell(one.scores, one.sd, name, ACCURACY) for one in evidence.tasks]}
        for name in dict.fromkeys(arms)
    ]
    gains = [
        {"name": name, "cells": [gain_cell(one.gains.get(name), ACCURACY) for one in evidence.tasks]} for name in beside
    ]
    note = (
        "The share of right answers among the test examples that have a label of the task, mean over seeds; differences are in "
        "points, with Student's 95\N{NO-BREAK SPACE}% interval over seeds. Each task is judged by itself, by the rule of the "
        "verdict: where there are many, one may look better by chance."
    )
    return {"columns": columns, "rows": [floor, *rows], "gains": gains, "note": note}


def said_by_task(evidence: Evidence) -> str | None:
    """In one line, what the teacher did for each task, and sharing, if that was tried."""
    lines = []
    for other, what in (("control", "Distilled less control"), ("apart", "Less a student for each task")):
        each = [f"{one.name} {told(one.gains[other], ACCURACY)}" for one in evidence.tasks if other in one.gains]
        if each:
            lines.append(f"{what}, task by task: {'; '.join(each)}.")
    return " ".join(lines) or None
