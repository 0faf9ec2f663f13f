"""Several tasks of one student: how each is done by every arm, and what the teacher and the sharing did for it."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from limbeck.data.measure import ACCURACY
from limbeck.data.task import Head
from limbeck.evidence.besides import Gain, TaskScores
from limbeck.evidence.comparison import Scores, difference, item_bootstrap, paired
from limbeck.evidence.exam import Exam
from limbeck.evidence.resample import RESAMPLES
from limbeck.evidence.schema import Evidence
from limbeck.evidence.verdict import SMALLEST_EFFECT, decide

_BESIDE = ("control", "apart")
"""Whom the distilled student is compared with."""
_WORDS = {"helped": "better", "did not help": "no better", "cannot tell": "cannot tell"}


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
        means = {arm: [float(one.mean()) for one in seeds.values()] for arm, seeds in scores.items()}
        gains = {
            other: _gain(scores["distilled"], scores[other], smallest_effect, resamples, seed)
            for other in _BESIDE
            if other in scores and scores[other].keys() & scores["distilled"].keys()
        }
        found.append(
            TaskScores(
                name=name,
                classes=len(head.classes),
                examples=int(mine.sum()),
                floor=float(np.bincount(exam.labels[mine] - head.start).max() / mine.sum()),
                scores={arm: float(np.mean(each)) for arm, each in means.items()},
                sd={arm: float(np.std(each, ddof=1)) if len(each) > 1 else None for arm, each in means.items()},
                gains=gains,
            )
        )
    return tuple(found)


def _right(exam: Exam, logits: Any, mine: Any, head: Head) -> Scores:
    """1 where the answer is right, of the examples that have one."""
    said = np.asarray(logits)[mine][:, head.start : head.stop].argmax(1) + head.start
    right: Scores = (said == exam.labels[mine]).astype(np.float64)
    return right


def _gain(
    ours: Mapping[int, Scores], theirs: Mapping[int, Scores], smallest_effect: float, resamples: int, seed: int
) -> Gain:
    low, high = paired(theirs, ours)
    gap = difference(high.mean(1).tolist(), low.mean(1).tolist(), resolution=1 / high.shape[1])
    items = item_bootstrap(high, low, resamples, seed)
    return Gain(verdict=decide(gap, items, smallest_effect), difference=gap, item_bootstrap=items)


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
            "floor": ACCURACY.value(one.floor),
        }
        for one in evidence.tasks
    ]
    rows = [{"name": name, "cells": [_score(one, name) for one in evidence.tasks]} for name in dict.fromkeys(arms)]
    gains = [{"name": name, "cells": [_gained(one.gains.get(name)) for one in evidence.tasks]} for name in beside]
    note = (
        "The share of right answers among the test examples that have a label of the task, mean over seeds; differences are in "
        "points, with Student's 95\N{NO-BREAK SPACE}% interval over seeds. Each task is judged by itself, by the rule of the "
        "verdict: where there are many, one may look better by chance."
    )
    return {"columns": columns, "rows": rows, "gains": gains, "note": note}


def said_by_task(evidence: Evidence) -> str | None:
    """In one line, what the teacher did for each task, and sharing, if that was tried."""
    told = []
    for other, what in (("control", "Distilled less control"), ("apart", "Less a student for each task")):
        each = [f"{one.name} {_told(one.gains[other])}" for one in evidence.tasks if other in one.gains]
        if each:
            told.append(f"{what}, task by task: {'; '.join(each)}.")
    return " ".join(told) or None


def _score(one: TaskScores, arm: str) -> tuple[str, str | None] | None:
    if arm not in one.scores:
        return None
    spread = one.sd.get(arm)
    return ACCURACY.value(one.scores[arm]), None if spread is None else ACCURACY.spread(spread)


def _gained(gain: Gain | None) -> tuple[str, str] | None:
    if gain is None:
        return None
    return _WORDS[gain.verdict], ACCURACY.gained(gain.difference.mean, gain.difference.ci95)


def _told(gain: Gain) -> str:
    return f"{ACCURACY.gained(gain.difference.mean, gain.difference.ci95)}: {_WORDS[gain.verdict]}"
