"""The terms of an objective over a large vocabulary, in one pass over the student's logits."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from limbeck.data.batch import CLASS, Batch
from limbeck.losses.storages import Storage
from limbeck.objective.evaluate import Asked, aligned, streamed
from limbeck.objective.grain import counted
from limbeck.objective.means import Mean, Seen
from limbeck.objective.schedules import Place
from limbeck.objective.term import Over, Term


@dataclass(frozen=True)
class Pass:
    """``loss``: the weighted sum of the terms that were evaluated together. ``means``: of every term that has rows here."""

    loss: Tensor
    means: dict[str, Mean]


def passed(
    terms: Mapping[str, Term], balanced: Collection[str], seen: Seen, totals: Mapping[str, Tensor], place: Place
) -> Pass:
    """The terms over the same logits, all at once; but one whose weight must see its mean first has a pass of its own.

    ``balanced``: the names of those. ``seen``: a row an answer. ``totals``: the rows of the whole step that each counts.
    """
    rows = seen.rows
    student, teacher = aligned(*(cast(Any, side.get("logits")) for side in (seen.student, seen.teacher)))
    apart = {*balanced, *(getattr(terms[name].weight, "against", "") for name in balanced if name in terms)}
    together: dict[str, list[Asked]] = {}
    telling: dict[str, list[bool]] = {}
    shares: dict[str, Tensor] = {}
    means: dict[str, Mean] = {}
    for name, term in terms.items():
        weight, there = term.weight.at(place), counted(term, rows)
        if weight == 0 or not bool(there.any()):
            continue
        every = term.over(teacher, rows.labels[CLASS], student.classes, place)
        weighed = [_weighed(one, there, student, teacher, rows) / totals[name] for one in every]
        asked = [
            Asked(one.divergence, one.teacher, counts, one.scale, one.temperature)
            for one, counts in zip(every, weighed, strict=True)
        ]
        telling[name] = [one.credit is None for one in every]
        shares[name] = there.sum() / totals[name]
        if name in apart:
            value, each = streamed(student, asked, again=True)
            means[name] = Mean(value, _summed(asked, each, telling[name]), shares[name])
        else:
            together[name] = [replace(one, scale=weight * one.scale) for one in asked]
    if not together:  # every process must reach the head, whether a row of its own counts or not
        return Pass(streamed(student.at(rows.ids[:0]), ())[0], means)
    loss, each = streamed(student, [one for several in together.values() for one in several])
    begin = 0
    for name, several in together.items():
        own = _summed(several, each[begin : begin + len(several)], telling[name])
        means[name] = Mean(None, own / terms[name].weight.at(place), shares[name])
        begin += len(several)
    return Pass(loss, means)


def _weighed(one: Over, there: Tensor, student: Storage, teacher: Storage | None, rows: Batch) -> Tensor:
    """What each row counts, [N]."""
    if one.credit is None:
        return there
    assert teacher is not None
    places = there.nonzero()[:, 0]
    credit = one.credit(student.at(places), teacher.at(places), rows.select(places))
    return credit.new_zeros(len(there)).index_copy(0, places, credit)


def _summed(asked: Sequence[Asked], means: Tensor, telling: Sequence[bool]) -> Tensor:
    """Of those whose value says something."""
    return (means * means.new_tensor([one.scale * told for one, told in zip(asked, telling, strict=True)])).sum()
