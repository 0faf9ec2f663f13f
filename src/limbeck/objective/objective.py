"""`Objective`: the sum of terms, and the owner of every trainable part that is not delivered."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from limbeck.data.batch import REAL, Batch
from limbeck.data.task import Gives, Task, one_each
from limbeck.data.tasks import CLASSES
from limbeck.errors import SignalError
from limbeck.losses.storages import carrier
from limbeck.objective.chunks import opened
from limbeck.objective.evaluate import aligned
from limbeck.objective.gates import Kept
from limbeck.objective.large import passed
from limbeck.objective.pairs import demand_one_tokenizer
from limbeck.objective.schedules import Place
from limbeck.objective.term import Needs, Owned, Term
from limbeck.objective.together import processes, together
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer
from limbeck.signals.perturbed import is_logits
from limbeck.teachers.teacher import Provides

_INSTEAD: Final[dict[Gives, str]] = {
    "choices": "use labels, soft-targets or another term between probabilities",
    "numbers": "use soft-targets with loss: logit-mse, which compares the numbers, or terms between layers",
    "tokens": "use labels, divergence or soft-targets of loss: kl, or terms between layers",
    "vectors": "use partners, which needs no teacher, margin-mse, or cosine with student: logits and teacher: logits",
}
"""What suits a task instead, by what its answers are."""


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
            them answer by answer, and its mean is over answers.
    """

    def __init__(self, terms: Sequence[Term], task: Task = CLASSES) -> None:
        super().__init__()
        if not terms:
            raise ValueError("an objective needs at least one term")
        self.terms = tuple(terms)
        self.task = task
        self.names = _unique([term.name for term in terms])
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
            if term.gate:
                every |= Needs(term.gate.student, term.gate.teacher)
        return every

    def check(self, provides: Provides | None) -> None:
        """Refuses what the teacher cannot give, before anything runs.

        Raises:
            SignalError: there is no teacher, or it lacks a signal, or its logits are stored too coarsely for a term.
        """
        for name, term in zip(self.names, self.terms, strict=True):
            other = getattr(term.weight, "against", None)
            if other is not None and (other not in self.names or other == name):
                known = ", ".join(repr(one) for one in self.names if one != name) or "none beside it"
                raise SignalError(
                    f"The weight of {name!r} is set against {other!r}; the objective's terms are {known}."
                )
            self._suits(name, term)
            gated = term.gate.teacher if term.gate else frozenset[str]()
            wanted = term.needs().teacher | gated
            if not wanted:
                continue
            if provides is None:
                raise SignalError(f"The term {name!r} needs a teacher, and there is none.")
            if lacking := provides.lacking(wanted):
                raise SignalError(f"The term {name!r} needs {sorted(lacking)} of the teacher, which does not show it.")
            reads = max(term.reads, Offer.MATRIX) if gated else term.reads
            if "logits" in wanted and reads > provides.offers:
                raise SignalError(
                    f"The term {name!r} reads {reads.name.lower()} of the teacher's logits, "
                    f"but they are stored as {provides.offers.name.lower()}."
                )

    def _suits(self, name: str, term: Term) -> None:
        needs, gives = term.needs(), self.task.gives
        reads = needs.student | needs.teacher
        suits = "logits" not in reads or gives in term.takes
        if not suits or (term.gate and gives != "choices"):
            who = "The term" if not suits else "The gate of"
            what = "probabilities" if suits or "choices" in term.takes else "vectors"
            raise SignalError(
                f"{who} {name!r} compares {what}, and the task {self.task.name!r} has none: {_INSTEAD[gives]}."
            )
        layers = sorted(one for one in reads if not is_logits(one))
        if gives == "vectors" and layers:
            raise SignalError(
                f"The term {name!r} reads {layers[0]!r}, but in the task {self.task.name!r} a model runs once for each text of "
                "an example, and only the vectors are shown: name 'logits' on both sides."
            )
        if self.task.reads == "sources" and any("decoder" in one for one in layers):
            raise SignalError(
                f"The term {name!r} reads a layer of the decoder, and which of its places are padding is not told to terms of "
                "layers: compare layers of the encoder, or answers (divergence)."
            )
        if self.task.single:
            return
        if term.gate and not self._by_answer(term):
            raise SignalError(
                f"The term {name!r} compares layers and takes no gate in the task {self.task.name!r}: its examples have "
                "several answers, and a gate weighs answers."
            )
        if term.scope == "batch" and self._by_answer(term) and processes() > 1:
            raise SignalError(
                f"The term {name!r} compares the answers of a batch with each other; in the task {self.task.name!r} that "
                "works with one process alone."
            )

    def _by_answer(self, term: Term) -> bool:
        """Whether the term sees a row for each answer of an example, and not for each example."""
        reads = term.needs()
        return (
            not self.task.single and not term.whole and all(is_logits(name) for name in reads.student | reads.teacher)
        )

    @property
    def _unrolled(self) -> bool:
        """Whether some term sees a row for each answer, so that the answers are taken apart."""
        return any(map(self._by_answer, self.terms))

    def _answered(self, teacher: Signals) -> dict[str, Tensor]:
        """The teacher's logits, if a term reads them answer by answer."""
        read = any(term.needs().teacher for term in self.terms if self._by_answer(term))
        return _logits(teacher) if read else {}

    def _demand_answers(self, batch: Batch) -> None:
        """Refuses terms that compare next tokens of two tokenizers.

        Raises:
            SignalError: there is one.
        """
        if self.task.gives == "tokens":
            for name, term in zip(self.names, self.terms, strict=True):
                if term.needs().teacher and self._by_answer(term):
                    demand_one_tokenizer(batch, name)

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
        whole = _full(student), _full(teacher)
        if batch is not None and self._unrolled:
            self._demand_answers(batch)
            _, answers = one_each(self.task, batch, _logits(whole[0]), self._answered(whole[1]))
            if self.task.gives == "tokens":
                both = aligned(*(cast(Any, side.get("logits")) for side in answers))
                answers = [{} if one is None else {"logits": cast(Tensor, one)} for one in both]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: parts are made there, and moved
            for name, term in zip(self.names, self.terms, strict=True):
                ours, theirs = answers if batch is not None and self._by_answer(term) else whole
                device = carrier(ours[min(term.needs().student)]).device
                made = (
                    (self.parts, term.build(ours, theirs, examples)),
                    (self.balances, term.weight.build()),
                    (
                        self.kept,
                        Kept((ours if "logits" in ours else theirs)["logits"].shape[-1]) if term.gate else None,
                    ),
                )
                for home, part in made:
                    if part is not None:
                        home[name] = part.to(device)
        self._built = True

    def owned(self) -> list[tuple[str, nn.Module, Owned]]:
        """Every part that it trains, by its term's name, and how it is optimised."""
        terms = dict(zip(self.names, self.terms, strict=True))
        found = [(name, part, terms[name].owned) for name, part in self.parts.items()]
        return found + [(f"{name}.weight", part, Owned(weight_decay=0.0)) for name, part in self.balances.items()]

    def at(self, place: Place) -> None:
        """Told before every step where training stands; schedules read it."""
        self.place = place

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many rows count for each mask; summed over micro-batches and processes they are the denominators."""
        rows = self.task.rows(batch)[0] if self._unrolled else batch
        return {
            self.counted_as(term): _counted(term, rows if self._by_answer(term) else batch).sum() for term in self.terms
        }

    def counted_as(self, term: Term) -> str:
        """The name of the term's denominator in `counts`."""
        if term.scope == "token":
            return f"{term.mask} chunks"
        return f"{term.mask} answers" if self._by_answer(term) else term.mask

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
            loss = torch.zeros((), device=batch.ids.device)
            means, parts, shares, done = self._means(ours, theirs, batch, counts)
            named = dict(zip(self.names, self.terms, strict=True))
            for name, term in named.items():
                if name in done:
                    continue
                if name not in means:  # it rests, yet its parameters must be seen by every process
                    loss = loss + sum((p.sum() * 0.0 for p in self._trained(name)), start=loss.new_zeros(()))
                    continue
                weighted = means[name]
                if name in self.balances:
                    other = means.get(getattr(term.weight, "against", ""))
                    signal = carrier(student[min(term.needs().student)])
                    weighted = self.balances[name](means[name], other, signal, self.place, shares[name])
                loss = loss + term.weight.at(self.place) * weighted
            loss = loss + sum(done.values(), start=loss.new_zeros(()))
            if len(means) + len(done) < len(
                named
            ):  # every process must reach what the others do; a zero has a gradient too
                loss = loss + sum((carrier(one).flatten()[:0].sum() for one in ours.values()), start=loss.new_zeros(()))
        return loss, parts

    def _means(
        self, student: Signals, teacher: Signals, batch: Batch, counts: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """The mean of every term that does not rest and has examples; the same without graphs, beside the shares kept; the
        share of the whole step's examples that each mean is of; and the means that are weighted already, by their terms.
        """
        done: dict[str, Tensor] = {}
        means: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        shares: dict[str, Tensor] = {}
        asked, answers = (batch, [dict(student), dict(teacher)])
        if self._unrolled:
            self._demand_answers(batch)
            asked, answers = one_each(self.task, batch, _logits(student), self._answered(teacher))
        if self.task.gives == "tokens" and self._unrolled:
            some = {name: term for name, term in zip(self.names, self.terms, strict=True) if self._by_answer(term)}
            totals = {name: counts[self.counted_as(term)].clamp_min(1) for name, term in some.items()}
            done = passed(some, {*self.balances}, answers, asked, totals, self.place, (means, parts, shares))
        for name, term in zip(self.names, self.terms, strict=True):
            if term.weight.at(self.place) == 0 or name in means or name in done:
                continue
            if self.task.gives == "tokens" and self._by_answer(term):  # no row of its own is here
                continue
            if term.scope == "token":
                values = term.values(student, teacher, batch, self.place, dict(self.parts.items()).get(name))
                total = counts[self.counted_as(term)].clamp_min(1)
                means[name], shares[name] = values.sum() / total, len(values) / total
                parts[name] = means[name].detach()
                continue
            shared = term.scope == "batch"
            needs = term.needs()
            rows, sides = (asked, answers) if self._by_answer(term) else (batch, [student, teacher])
            ours = {one: sides[0][one] for one in needs.student | (term.gate.student if term.gate else set())}
            theirs = {one: sides[1][one] for one in needs.teacher | (term.gate.teacher if term.gate else set())}
            if shared:
                rows, (ours, theirs) = together(batch, ours, theirs)
            counted = _counted(term, rows)
            if not bool(counted.all()):
                rows = rows.select(counted)
                ours, theirs = ({one: value[counted] for one, value in side.items()} for side in (ours, theirs))
            if not len(rows):
                continue
            values = term.values(ours, theirs, rows, self.place, dict(self.parts.items()).get(name))
            if shared:
                parts[name] = values.detach().mean() / processes()
                means[name] = values.mean() / processes()  # every process computes it whole
                shares[name] = torch.ones_like(means[name]).detach() / processes()
                continue
            total = counts[self.counted_as(term)].clamp_min(1)
            shares[name] = len(rows) / total
            if term.gate:
                weights = term.gate.weights(ours, theirs, rows)
                self.kept[name](weights, rows)
                parts[f"{name}.kept"] = weights.sum() / total
                values = torch.where(weights > 0, weights * values, 0.0)
            means[name] = values.sum() / total
            parts[name] = means[name].detach()
        return means, parts, shares, done

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


def _counted(term: Term, batch: Batch) -> Tensor:
    return opened(batch) if term.scope == "token" else batch.masks[term.mask] & batch.masks[REAL]


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
