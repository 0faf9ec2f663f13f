"""Groups of test examples: whether all of them fare alike, and whether distillation left one behind."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from limbeck.errors import DataError
from limbeck.evidence.besides import GroupScores
from limbeck.evidence.partly import BySeed, gain, gain_cell, means, score_cell, told
from limbeck.evidence.resample import RESAMPLES
from limbeck.evidence.schema import Evidence
from limbeck.evidence.verdict import SMALLEST_EFFECT, worse

_BESIDE = ("control", "teacher")
"""Whom the distilled student is compared with."""


def group_scores(
    scores: Mapping[str, BySeed],
    groups: Sequence[str] | None,
    smallest_effect: float = SMALLEST_EFFECT,
    resamples: int = RESAMPLES,
    seed: int = 0,
    bounded: bool = True,
) -> tuple[GroupScores, ...]:
    """How well each group is done by every arm; nothing if there are fewer than two.

    ``scores``: by arm and seed, [N]; the teacher has one seed, and is set beside each of the student's. ``groups``: whose each of
    the N examples is.

    Raises:
        DataError: there are not as many names as examples.
    """
    whose = np.asarray(groups if groups is not None else ())
    count = len(next(iter(scores["distilled"].values())))
    if groups is not None and len(whose) != count:
        raise DataError(f"There are {count:,} test examples, and groups of {len(whose):,}.")
    names = sorted(set(whose.tolist()))
    if len(names) < 2:
        return ()
    known = {arm: seeds for arm, seeds in scores.items() if len(next(iter(seeds.values()))) == count}
    found = []
    for name in names:
        mine = whose == name
        own = {arm: {at: one[mine] for at, one in seeds.items()} for arm, seeds in known.items()}
        averages, spreads = means(own)
        beside = {arm: own[arm] for arm in _BESIDE if arm in own}
        if "teacher" in beside:
            (only, *_) = beside["teacher"].values()
            beside["teacher"] = dict.fromkeys(own["distilled"], only)
        gains = {
            arm: gain(own["distilled"], seeds, smallest_effect, resamples, seed, bounded)
            for arm, seeds in beside.items()
            if seeds.keys() & own["distilled"].keys()
        }
        found.append(GroupScores(name=name, examples=int(mine.sum()), scores=averages, sd=spreads, gains=gains))
    return tuple(found)


def shown_groups(evidence: Evidence) -> dict[str, Any] | None:
    """For the report: a row for each arm, and for each difference; a column for each group, and how far apart they are."""
    if not evidence.groups:
        return None
    measure, groups = evidence.measure, evidence.groups
    arms = [name for name in evidence.arms.present() if all(name in one.scores for one in groups)]
    beside = [name for name in _BESIDE if all(name in one.gains for one in groups)]
    columns = [{"name": one.name, "of": f"{one.examples:,} test examples"} for one in groups]
    rows = []
    for arm in arms:
        each = [one.scores[arm] for one in groups]
        apart = (measure.spread(max(each) - min(each)), None)
        rows.append({"name": arm, "cells": [*(score_cell(one.scores, one.sd, arm, measure) for one in groups), apart]})
    gains = [{"name": arm, "cells": [*(gain_cell(one.gains[arm], measure) for one in groups), None]} for arm in beside]
    note = (
        f"Mean {measure.name} over seeds in each group; the last column is the best group's less the worst's. Each group is "
        "judged by itself, by the rule of the verdict: where there are many, one may look better or worse by chance, and of a "
        "small one little can be told."
    )
    return {
        "columns": [*columns, {"name": "apart", "of": "best less worst"}],
        "rows": rows,
        "gains": gains,
        "note": note,
    }


def said_by_group(evidence: Evidence) -> str | None:
    """In one line, the groups in which the student is surely worse than its teacher, or than without it."""
    lines = []
    for other, what in (("teacher", "the teacher"), ("control", "the control")):
        left = [
            f"{one.name} ({told(one.gains[other], evidence.measure)})" for one in evidence.groups if _behind(one, other)
        ]
        if left:
            lines.append(f"Worse than {what} in {len(left)} of {len(evidence.groups)} groups: {'; '.join(left)}.")
    return " ".join(lines) or None


def _behind(one: GroupScores, other: str) -> bool:
    return other in one.gains and worse(one.gains[other].difference, one.gains[other].item_bootstrap)
