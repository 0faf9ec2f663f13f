"""A term's mean over the rows that it sees of a batch, as a part of its mean over all rows of the step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.objective.gates import Kept
from limbeck.objective.grain import counted
from limbeck.objective.schedules import Place
from limbeck.objective.term import Term
from limbeck.objective.together import processes, together
from limbeck.signals.capture import Signals


@runtime_checkable
class Tells(Protocol):
    """A part that has numbers for the curve."""

    def told(self) -> Mapping[str, Tensor]:
        """By name, a number for each of the rows that were seen last, [B]."""
        ...


@dataclass(frozen=True)
class Mean:
    """What a term says of a batch.

    ``value``: a scalar with its graph; None: a sum of several terms has it, weighted. ``plain``: the value without a graph.
    ``share``: of the step's rows, those that are here. ``kept``: the share of the step's rows that a gate kept here. ``told``:
    what the term's part tells of the rows that it saw, as its part in the step's mean.
    """

    value: Tensor | None
    plain: Tensor
    share: Tensor
    kept: Tensor | None = None
    told: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A batch in rows of one grain, with what both sides say of each."""

    rows: Batch
    student: Signals
    teacher: Signals


def mean_of(
    term: Term, seen: Seen, place: Place, part: nn.Module | None, kept: nn.Module | None, total: Tensor
) -> Mean | None:
    """The term's mean; None if none of its rows is here. ``total``: how many the step has, at least 1."""
    if term.scope == "token":  # which finds what counts in both sides' texts
        values = term.values(seen.student, seen.teacher, seen.rows, place, part)
        return _mean(values.sum() / total, len(values) / total)
    needs, gate = term.needs(), term.gate
    rows = seen.rows
    ours = {one: seen.student[one] for one in needs.student | (gate.student if gate else set())}
    theirs = {one: seen.teacher[one] for one in needs.teacher | (gate.teacher if gate else set())}
    shared = term.scope == "batch"
    if shared:
        rows, (ours, theirs) = together(rows, ours, theirs)
    there = counted(term, rows)
    if not bool(there.all()):
        rows = rows.select(there)
        ours, theirs = ({one: value[there] for one, value in side.items()} for side in (ours, theirs))
    if not len(rows):
        return None
    values = term.values(ours, theirs, rows, place, part)
    if shared:  # every process computes it whole
        value = values.mean() / processes()
        return _mean(value, torch.ones_like(value) / processes())
    share = len(rows) / total
    shown: Mapping[str, Tensor] = part.told() if isinstance(part, Tells) else {}
    told = {name: numbers.sum() / total for name, numbers in shown.items()}
    if gate is None:
        return _mean(values.sum() / total, share, told=told)
    weights = gate.weights(ours, theirs, rows)
    assert isinstance(kept, Kept)
    kept(weights, rows)
    value = torch.where(weights > 0, weights * values, 0.0).sum() / total
    return _mean(value, share, weights.sum() / total, told)


def _mean(value: Tensor, share: Tensor, kept: Tensor | None = None, told: Mapping[str, Tensor] | None = None) -> Mean:
    return Mean(value, value.detach(), share.detach(), kept, told or {})
