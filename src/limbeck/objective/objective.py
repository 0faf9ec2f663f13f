"""`Objective`: the sum of terms, and the owner of every trainable part that is not delivered."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from limbeck.data.batch import REAL, Batch
from limbeck.errors import SignalError
from limbeck.objective.schedules import Place
from limbeck.objective.term import Needs, Term
from limbeck.signals.capture import Signals
from limbeck.teachers.teacher import Provides


class Objective(nn.Module):
    """A weighted sum of terms.

    In one's own loop::

        objective = Objective([Labels(weight=0.1), SoftTargets(weight=0.9)])
        loss, parts = objective(student_signals, teacher_signals, batch)

    Signals are mappings such as ``{"logits": tensor}``; `Batch.of` makes a batch from tensors. If a term has a
    projector, call `build` on one batch of signals first, before the optimiser is made, and train
    ``objective.parameters()`` too.

    Args:
        terms: what is summed; at least one.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("an objective needs at least one term")
        self.terms = tuple(terms)
        self.names = _unique([term.name for term in terms])
        self.parts = nn.ModuleDict()
        self.place = Place(0, 1)
        self._built = False

    def needs(self) -> Needs:
        """All signals that the terms read."""
        every = Needs(frozenset())
        for term in self.terms:
            every |= term.needs()
        return every

    def check(self, provides: Provides | None) -> None:
        """Refuses what the teacher cannot give, before anything runs.

        Raises:
            SignalError: there is no teacher, or it lacks a signal, or its logits are stored too coarsely for a term.
        """
        for name, term in zip(self.names, self.terms, strict=True):
            wanted = term.needs().teacher
            if not wanted:
                continue
            if provides is None:
                raise SignalError(f"The term {name!r} needs a teacher, and there is none.")
            if lacking := provides.lacking(wanted):
                raise SignalError(f"The term {name!r} needs {sorted(lacking)} of the teacher, which does not show it.")
            if "logits" in wanted and term.reads > provides.offers:
                raise SignalError(
                    f"The term {name!r} reads {term.reads.name.lower()} of the teacher's logits, "
                    f"but they are stored as {provides.offers.name.lower()}."
                )

    def build(self, student: Signals, teacher: Signals, seed: int = 0) -> None:
        """Fits projectors and the like to one batch of signals. The global random state is left as it was.

        Raises:
            SignalError: two sides cannot be joined.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: parts are made there, and moved
            for name, term in zip(self.names, self.terms, strict=True):
                part = term.build(student, teacher)
                if part is not None:
                    self.parts[name] = part.to(student[next(iter(term.needs().student))].device)
        self._built = True

    def at(self, place: Place) -> None:
        """Told before every step where training stands; schedules read it."""
        self.place = place

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many rows count for each mask; summed over micro-batches and processes they are the denominators."""
        return {term.mask: _kept(term, batch).sum() for term in self.terms}

    def total_counts(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """`counts` over several micro-batches."""
        totals: dict[str, Tensor] = {}
        for batch in batches:
            for mask, count in self.counts(batch).items():
                totals[mask] = totals.get(mask, torch.zeros_like(count)) + count
        return totals

    def forward(
        self, student: Signals, teacher: Signals | None, batch: Batch, counts: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar), and each term's own mean, unweighted and detached, by name.

        Args:
            student: the student's signals, with their graph.
            teacher: the teacher's; None if no term reads them.
            batch: the batch that both saw.
            counts: denominators of the whole step; by default those of this batch.
        """
        if teacher is None:
            self.check(None)
        if not self._built and any(term.needs().teacher for term in self.terms):
            self.build(student, teacher or {})
            if any(True for _ in self.parts.parameters()):
                self.parts.clear()
                self._built = False
                raise SignalError("This objective trains a projector: call objective.build(...) before the optimiser.")
        counts = self.counts(batch) if counts is None else counts
        parts: dict[str, Tensor] = {}
        with torch.autocast(batch.ids.device.type, enabled=False):
            ours, theirs = _full(student), _full(teacher or {})
            loss = ours["logits"].new_zeros(()) if "logits" in ours else next(iter(ours.values())).new_zeros(())
            for name, term in zip(self.names, self.terms, strict=True):
                part = dict(self.parts.items()).get(name)
                weight = term.weight.at(self.place)
                if weight == 0:  # it rests, yet its parameters must be seen by every process
                    loss = loss + sum((p.sum() * 0.0 for p in _parameters(part)), start=loss.new_zeros(()))
                    continue
                values = term.values(ours, theirs, batch, self.place, part)
                kept = torch.where(_kept(term, batch), values, 0.0).sum()
                mean = kept / counts[term.mask].clamp_min(1)
                parts[name] = mean.detach()
                loss = loss + weight * mean
            if not parts:  # all terms rest: a zero that can still be differentiated
                loss = loss + next(iter(ours.values())).flatten()[:0].sum()
        return loss, parts


def _kept(term: Term, batch: Batch) -> Tensor:
    return batch.masks[term.mask] & batch.masks[REAL]


def _full(signals: Signals) -> dict[str, Tensor]:
    half = (torch.float16, torch.bfloat16)
    return {name: value.float() if value.dtype in half else value for name, value in signals.items()}


def _parameters(part: nn.Module | None) -> Iterable[nn.Parameter]:
    return part.parameters() if part is not None else ()


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Each name, numbered from the second one on if it comes again: ``hints``, ``hints-2``."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return tuple(unique)
