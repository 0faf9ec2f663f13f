"""`Objective`: the sum of terms, and the owner of every trainable part that is not delivered."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.task import Task, one_each
from limbeck.data.tasks import CLASSES
from limbeck.errors import SignalError
from limbeck.losses.storages import carrier
from limbeck.objective.evaluate import aligned
from limbeck.objective.gates import Gating, Kept
from limbeck.objective.grain import Grain, counted, counted_as, grain
from limbeck.objective.heads import by_task, cut, of_head
from limbeck.objective.large import passed
from limbeck.objective.means import Mean, Seen, mean_of
from limbeck.objective.pairs import demand_one_tokenizer
from limbeck.objective.schedules import Place
from limbeck.objective.suits import demand_known, demand_suited, demand_taught
from limbeck.objective.term import Needs, Owned, Term
from limbeck.signals.capture import Signals
from limbeck.signals.perturbed import is_logits
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
        task: what is asked of an example. Where it has several answers, a term that reads nothing but logits compares
            them answer by answer, and its mean is over answers. Where it has several heads, such a term stands for one a head.
    """

    def __init__(self, terms: Sequence[Term], task: Task = CLASSES) -> None:
        super().__init__()
        if not terms:
            raise ValueError("an objective needs at least one term")
        self.terms = by_task(terms, task)
        self.task = task
        self.names = _unique([term.name + (f" of {term.task}" if term.task else "") for term in self.terms])
        self._named = dict(zip(self.names, self.terms, strict=True))
        self.parts = nn.ModuleDict()
        self.balances = nn.ModuleDict()
        self.kept = nn.ModuleDict()
        self.place = Place(0, 1)
        self._built = False

    def needs(self) -> Needs:
        """All signals that the terms and their gates read."""
        every = Needs(frozenset())
        for term in self.terms:
            every |= term.needs()
            if where := getattr(term.weight, "where", None):
                every |= Needs(frozenset({where}))
            if term.gate:
                every |= Needs(term.gate.student, term.gate.teacher)
        return every

    def check(self, provides: Provides | None) -> None:
        """Refuses what the teacher cannot give, before anything runs.

        Raises:
            SignalError: there is no teacher, or it lacks a signal, or its logits are stored too coarsely for a term.
        """
        demand_known(self._named)
        for name, term in self._named.items():
            demand_suited(name, term, self._task(term))
            demand_taught(name, term, provides)

    def _of(self, kind: Grain) -> dict[str, Term]:
        """The terms whose values stand for that."""
        return {name: term for name, term in self._named.items() if grain(term, self._task(term)) == kind}

    def _task(self, term: Term) -> Task:
        """What the term is asked of: one class, if it is about one head."""
        return CLASSES if term.task else self.task

    def _rows(self, term: Term, batch: Batch, answers: Batch) -> Batch:
        """The batch as the term sees it; ``answers``: with a row for each."""
        if term.task:
            return self.task.headed(batch, term.task)
        return answers if grain(term, self._task(term)) == "answer" else batch

    def _answers(self, batch: Batch, student: Signals, teacher: Signals) -> Seen:
        """The batch with a row for each answer, and what terms read answer by answer.

        Raises:
            SignalError: they compare next tokens of two tokenizers.
        """
        read = {name for name, term in self._of("answer").items() if term.needs().teacher}
        if self.task.gives == "tokens" and read:
            demand_one_tokenizer(batch, min(read))
        rows, (ours, theirs) = one_each(self.task, batch, _logits(student), _logits(teacher) if read else {})
        return Seen(rows, ours, theirs)

    def build(
        self, student: Signals, teacher: Signals, seed: int = 0, examples: int = 0, batch: Batch | None = None
    ) -> None:
        """Fits projectors and the like to one batch of signals. The global random state is left as it was.

        Args:
            student: the student's signals for a few examples.
            teacher: the teacher's for the same ones.
            seed: of the initial weights.
            examples: how many the data set has, for terms that remember them; their ids are below it.
            batch: what both sides saw; needed where an example has several answers.

        Raises:
            SignalError: two sides cannot be joined.
        """
        whole = answers = _full(student), _full(teacher)
        if batch is not None and self._of("answer"):
            seen = self._answers(batch, *whole)
            answers = {**seen.student}, {**seen.teacher}
            if self.task.gives == "tokens":
                both = aligned(*(cast(Any, side.get("logits")) for side in answers))
                answers = cast(Any, tuple({} if one is None else {"logits": one} for one in both))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: parts are made there, and moved
            for name, term in self._named.items():
                ours, theirs = answers if grain(term, self._task(term)) == "answer" else whole
                if term.task:
                    ours, theirs = (cut(side, self.task, self.task.heads[term.task]) for side in (ours, theirs))
                device = carrier(ours[min(term.needs().student)]).device
                made = (
                    (self.parts, term.build(ours, theirs, examples)),
                    (self.balances, term.weight.build()),
                    (
                        self.kept,
                        Kept(_gated(term.gate, ours, theirs)) if term.gate else None,
                    ),
                )
                for home, part in made:
                    if part is not None:
                        home[name] = part.to(device)
        self._built = True

    def owned(self) -> list[tuple[str, nn.Module, Owned]]:
        """Every part that it trains, by its term's name, and how it is optimised."""
        found = [(name, part, self._named[name].owned) for name, part in self.parts.items()]
        return found + [(f"{name}.weight", part, Owned(weight_decay=0.0)) for name, part in self.balances.items()]

    def at(self, place: Place) -> None:
        """Told before every step where training stands; schedules read it."""
        self.place = place

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many rows count for each mask; summed over micro-batches and processes they are the denominators."""
        rows = self.task.rows(batch)[0] if self._of("answer") else batch
        return {self.counted_as(term): counted(term, self._rows(term, batch, rows)).sum() for term in self.terms}

    def counted_as(self, term: Term) -> str:
        """The name of the term's denominator in `counts`."""
        return counted_as(term, self._task(term))

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
        self._demand(student, {} if teacher is None else teacher)
        if not self._built:
            self._build_from(student, teacher or {}, batch)
        counts = self.counts(batch) if counts is None else counts
        with torch.autocast(batch.ids.device.type, enabled=False):
            ours, theirs = _full(student), _full(teacher or {})
            loss, means = self._means(Seen(batch, ours, theirs), counts)
            for name, term in self._named.items():
                one = means.get(name)
                if one is None:  # it rests, yet its parameters must be seen by every process
                    loss = loss + sum((p.sum() * 0.0 for p in self._trained(name)), start=loss.new_zeros(()))
                    continue
                if (value := one.value) is None:
                    continue
                if name in self.balances:
                    other = means.get(getattr(term.weight, "against", ""))
                    signal = carrier(student[getattr(term.weight, "where", None) or min(term.needs().student)])
                    value = self.balances[name](value, other and other.value, signal, self.place, one.share)
                loss = loss + term.weight.at(self.place) * value
            if len(means) < len(self.terms):  # every process must reach what the others do; a zero has a gradient too
                loss = loss + sum((carrier(one).flatten()[:0].sum() for one in ours.values()), start=loss.new_zeros(()))
        parts = {name: one.plain for name, one in means.items()}
        parts |= {f"{name}.kept": one.kept for name, one in means.items() if one.kept is not None}
        return loss, parts | {
            f"{name}.{what}": value for name, one in means.items() for what, value in one.told.items()
        }

    def _means(self, examples: Seen, counts: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Mean]]:
        """What every term says that does not rest and has rows, and a weighted sum of those that have no value of their own."""
        loss, means = torch.zeros((), device=examples.rows.ids.device), dict[str, Mean]()
        totals = {name: counts[self.counted_as(term)].clamp_min(1) for name, term in self._named.items()}
        answer = self._of("answer")
        answers = self._answers(examples.rows, examples.student, examples.teacher) if answer else examples
        if self.task.gives == "tokens" and answer:
            done = passed(answer, {*self.balances}, answers, totals, self.place)
            loss, means = done.loss, done.means
        for name, term in self._named.items():
            if term.weight.at(self.place) == 0 or (self.task.gives == "tokens" and name in answer):
                continue
            seen = answers if name in answer else examples
            if term.task:
                seen = of_head(examples, self.task, term.task)
            parts, kept = dict(self.parts.items()), dict(self.kept.items())
            found = mean_of(term, seen, self.place, parts.get(name), kept.get(name), totals[name])
            if found is not None:
                means[name] = found
        return loss, means

    def shares(self) -> dict[str, list[float | None]]:
        """What the gates kept so far, by term: of each class, then of the examples without a label."""
        return {name: kept.shares() for name, kept in self.kept.items() if isinstance(kept, Kept)}

    def _trained(self, name: str) -> Iterable[nn.Parameter]:
        for home in (self.parts, self.balances):
            if name in home:
                yield from home[name].parameters()

    def _demand(self, student: Signals, teacher: Signals) -> None:
        """Both sides are mappings and hold what the terms read.

        Raises:
            SignalError: one is not, or lacks a signal.
        """
        needs = self.needs()
        for side, given, wanted in (("student", student, needs.student), ("teacher", teacher, needs.teacher)):
            if not isinstance(given, Mapping):
                raise SignalError(
                    f"The {side}'s signals must be a mapping such as {{'logits': tensor}}, not {type(given).__name__}."
                )
            if lacking := sorted(wanted - given.keys()):
                shown = ", ".join(map(repr, sorted(given))) or "nothing"
                raise SignalError(f"The objective reads {lacking[0]!r} of the {side}, and was given {shown}.")

    def _build_from(self, student: Signals, teacher: Signals, batch: Batch) -> None:
        """In one's own loop an objective that trains nothing builds itself."""
        self.build(student, teacher, batch=batch)
        if any(True for _ in self.parameters()):
            for home in (self.parts, self.balances, self.kept):
                home.clear()
            self._built = False
            raise SignalError("This objective trains a projector: call objective.build(...) before the optimiser.")


def _gated(gate: Gating, student: Signals, teacher: Signals) -> int:
    """How many classes the logits have that a gate reads."""
    read = [student[name] for name in gate.student] + [teacher[name] for name in gate.teacher]
    return read[0].shape[-1]


def _logits(signals: Signals) -> dict[str, Tensor]:
    return {name: value for name, value in signals.items() if is_logits(name)}


def _full(signals: Signals) -> dict[str, Tensor]:
    half = (torch.float16, torch.bfloat16)
    return {name: value.float() if getattr(value, "dtype", None) in half else value for name, value in signals.items()}


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Each name, numbered from the second one on if it comes again: ``hints``, ``hints-2``."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return tuple(unique)
