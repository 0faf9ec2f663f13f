"""The terms of an objective over a large vocabulary, in one pass over the student's logits."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from limbeck.data.batch import CLASS, REAL, Batch
from limbeck.losses.storages import Storage
from limbeck.objective.evaluate import Asked, aligned, streamed
from limbeck.objective.schedules import Place
from limbeck.objective.term import Over, Term

Kept = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def passed(
    terms: Mapping[str, Term],
    balanced: Collection[str],
    answers: Sequence[Mapping[str, Any]],
    rows: Batch,
    totals: Mapping[str, Tensor],
    place: Place,
    kept: Kept,
) -> dict[str, Tensor]:
    """The weighted sum of the terms' means under the first one's name, and zeros under the others'.

    A term whose weight must see its mean first has a pass of its own, and its mean goes into ``kept``, as do every term's
    plain mean without a graph, and its share of the step's rows; a term none of whose rows is here says nothing. ``answers``: the
    logits of both sides, a row an answer. ``totals``: the rows of the whole step that each counts.
    """
    means, parts, shares = kept
    student, teacher = aligned(answers[0].get("logits"), answers[1].get("logits"))
    apart = {*balanced, *(getattr(terms[name].weight, "against", "") for name in balanced if name in terms)}
    together: dict[str, list[Asked]] = {}
    telling: dict[str, list[bool]] = {}
    for name, term in terms.items():
        weight, counted = term.weight.at(place), rows.masks[term.mask] & rows.masks[REAL]
        if weight == 0 or not bool(counted.any()):
            continue
        every = term.over(teacher, rows.labels[CLASS], student.classes, place)
        weighed = [_weighed(one, counted, student, teacher, rows) / totals[name] for one in every]
        asked = [
            Asked(one.divergence, one.teacher, counts, one.scale, one.temperature)
            for one, counts in zip(every, weighed, strict=True)
        ]
        telling[name] = [one.credit is None for one in every]
        shares[name] = counted.sum() / totals[name]
        if name in apart:
            means[name], each = streamed(student, asked, again=True)
            parts[name] = _summed(asked, each, telling[name])
        else:
            together[name] = [replace(one, scale=weight * one.scale) for one in asked]
    if not together:  # every process must reach the head, whether a row of its own counts or not
        return {"": streamed(student.at(rows.ids[:0]), ())[0]}
    loss, each = streamed(student, [one for several in together.values() for one in several])
    begin = 0
    for name, several in together.items():
        own = _summed(several, each[begin : begin + len(several)], telling[name])
        parts[name] = own / terms[name].weight.at(place)
        begin += len(several)
    first, *others = together
    return {first: loss, **dict.fromkeys(others, 0 * loss.detach())}


def _weighed(one: Over, counted: Tensor, student: Storage, teacher: Storage | None, rows: Batch) -> Tensor:
    """What each row counts, [N]."""
    if one.credit is None:
        return counted
    assert teacher is not None
    places = counted.nonzero()[:, 0]
    credit = one.credit(student.at(places), teacher.at(places), rows.select(places))
    return credit.new_zeros(len(counted)).index_copy(0, places, credit)


def _summed(asked: Sequence[Asked], means: Tensor, telling: Sequence[bool]) -> Tensor:
    """Of those whose value says something."""
    return (means * means.new_tensor([one.scale * told for one, told in zip(asked, telling, strict=True)])).sum()
