"""Several teachers of one student: how good each is, what it contributed, and how much they disagree."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from limbeck.evidence.besides import Member, Pair, Teachers
from limbeck.evidence.exam import Exam
from limbeck.evidence.fidelity import likeness
from limbeck.evidence.quality import judged


def teachers(
    exam: Exam,
    told: Mapping[str, Any],
    students: Sequence[Any],
    weights: Mapping[str, float],
    routed: Mapping[str, float],
) -> Teachers:
    """What the test part says of them.

    ``told``: by name, each teacher's logits [M, C]. ``students``: of each seed, the distilled student's. ``weights``, ``routed``:
    mean shares by name, where they are known.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
    """
    members = []
    for name, logits in told.items():
        alike = [likeness(exam, logits, one, 0).agreement for one in students]
        known = [one for one in alike if one is not None]
        members.append(
            Member(
                name=name,
                score=judged(exam, logits, (), f"The predictions of the teacher {name}").score,
                weight=weights.get(name),
                routed=routed.get(name),
                agreement=float(np.mean(known)) if known else None,
            )
        )
    return Teachers(members=tuple(members), pairs=tuple(_pair(exam, told, *two) for two in combinations(told, 2)))


def _pair(exam: Exam, told: Mapping[str, Any], one: str, other: str) -> Pair:
    found = likeness(exam, told[one], told[other], 0)
    return Pair(one=one, other=other, differing=None if found.agreement is None else 1 - found.agreement, js=found.js)
