"""`Plan`: what a regime plans with, for one seed."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Self, TypeAlias

import torch
from accelerate import PartialState
from torch import Tensor

from limbeck.data.batch import REAL
from limbeck.data.examples import Examples, Splits, copies
from limbeck.models.specs import BuildContext, Spec
from limbeck.objective import Objective, Term, matched, untaught
from limbeck.objective.term import Layers
from limbeck.regimes.regime import Regime, make, train
from limbeck.signals.head import head_of
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label, missing
from limbeck.teachers.part import WHOLE, Part
from limbeck.teachers.precision import Asking
from limbeck.teachers.store.codecs import Codec, Coding
from limbeck.teachers.teacher import Teacher
from limbeck.training.order import Order
from limbeck.training.settings import Training
from limbeck.training.stage import Origin, Stage, Start

_MATCHED = 512  # examples that layers are compared on
_ROWS = 256  # a labelling batch; its bits depend on this, so it is not a setting


Learnt: TypeAlias = Callable[[Asking | None], Teacher]
"""Somebody who was trained, as a teacher that is run in a certain way."""
Join: TypeAlias = Callable[[Sequence[Learnt]], Teacher]
"""Makes one teacher of those that were trained for it, in their order."""


@dataclass(frozen=True)
class Plan:
    """Data, models, objective and budget of one seed.

    ``teacher``: if it is given; else ``teacher_stages`` train it, or those that it consists of, and ``join`` makes it of what
    they gave; without ``join`` it is the one, run as ``asking`` says. ``store``: the root of stored teacher outputs, None to ask
    live. ``views``: augmented views a row, 0 for none, None for a new one every epoch. ``labelled_share``: wherever rows
    without a label are read too, see `Examples.with_labels_as`; None: as the data is. ``on_label`` hears (done, all) rows.
    """

    splits: Splits
    student: Spec
    terms: tuple[Term, ...]
    training: Training
    teacher: Teacher | None
    teacher_stages: tuple[Stage, ...]
    views: int | None
    seed: int
    context: BuildContext = field(repr=False)
    labelled_share: float | None = None
    store: Path | None = None
    codec: Coding | None = None
    asking: Asking | None = None
    join: Join | None = None
    device: str = "cpu"
    on_label: Callable[[int, int], None] = lambda done, total: None

    def at(self, seed: int) -> Self:
        """The same plan for another seed."""
        return replace(self, seed=seed)

    def stage(
        self,
        name: str,
        terms: tuple[Term, ...] | None = None,
        teacher: Teacher | None = None,
        examples: Examples | None = None,
        start: Origin | None = None,
        frozen: tuple[str, ...] = (),
    ) -> Stage:
        """A training of the student: the plan's, but for what is given. Initial weights depend on the seed alone."""
        return Stage(
            name=f"{name}, seed {self.seed}",
            start=start or self.start,
            terms=self.terms if terms is None else terms,
            examples=self.read(self.terms if terms is None else terms) if examples is None else examples,
            validation=self.splits.validation,
            training=self.training,
            teacher=teacher,
            views=self.views,
            seed=self.seed,
            frozen=frozen,
        )

    def read(self, terms: tuple[Term, ...]) -> Examples:
        """The rows that these terms learn from: without a teacher those without a label say nothing, unless a term is of all."""
        taught = any(term.needs().teacher or term.mask == REAL for term in terms)
        return self.every if taught else self.splits.train.labelled()

    @property
    def every(self) -> Examples:
        """All training rows, those with a label as often as `labelled_share` says."""
        train = self.splits.train
        return train if self.labelled_share is None else train.with_labels_as(self.labelled_share)

    @property
    def start(self) -> Start:
        """The untrained student of this seed."""
        return Start(self.student, self.seed, self.context)

    def longer(self, steps: int) -> Self:
        """The same plan with ``steps`` more for every training: what an arm gets for what another did before."""
        total = self.training.total + steps
        return replace(self, training=self.training.model_copy(update={"steps": total}))

    def taught(self) -> Regime[Self]:
        """The plan with its teacher ready: as it is given, or trained now. A student may start from its layers."""
        if self.teacher is not None or not self.teacher_stages:
            return self
        trained = list[Learnt]()
        for stage in self.teacher_stages:
            trained.append((yield from train(stage)).as_teacher)
        return self.joined(trained)

    def joined(self, trained: Sequence[Learnt]) -> Self:
        """The plan with the teacher that is made of those that were trained for it."""
        teacher = self.join(trained) if self.join else trained[0](self.asking)
        return replace(self, teacher=teacher, context=replace(self.context, donor=teacher.module))

    def matched(self) -> Self:
        """The plan with the layers of its terms found, on the untrained student of this seed and the ready teacher."""
        with suppress(_Asked):
            return replace(self, terms=tuple(one for term in self.terms for one in term.resolved(_ask)))
        rows = self.splits.train.rows[:_MATCHED]
        order = Order(rows, len(rows), self.seed, self.views)
        views = torch.full_like(rows, order.view(0))  # a store may hold none but the views of the training
        batches = [
            self.splits.train.batch(ids, own)
            for ids, own in zip(torch.split(rows, 64), torch.split(views, 64), strict=True)
        ]
        module = self.start.module()
        return replace(self, terms=matched(self.terms, module, self.teacher, batches))

    @property
    def coded(self) -> Codec | None:
        """How the ready teacher's logits are stored; None: exactly."""
        module = self.teacher.module if self.teacher else None
        return self.codec.made(head_of(module) if module is not None else None) if self.codec else None

    def labelled(self) -> Regime[Teacher]:
        """The ready teacher, its outputs for every training row and view stored unless the plan says to ask it live."""
        assert self.teacher is not None
        if self.store is None:
            return self.teacher
        cached = self.cached()
        yield from make("label", self.label_together, teacher=cached)
        return cached

    def cached(self) -> CachedTeacher:
        """The store around the ready teacher."""
        assert self.teacher is not None
        assert self.store is not None
        return CachedTeacher(self.teacher, self.store, self.splits.train.inputs_fingerprint, codec=self.coded)

    def label(self, teacher: CachedTeacher, part: Part = WHOLE) -> None:
        """Stores a part of the teacher's outputs for every training row and view."""
        label(
            teacher,
            self.splits.train,
            self.needed_views,
            _ROWS,
            Objective(self.terms, self.splits.task).needs().teacher,
            self.on_label,
            self.device,
            part,
        )

    def label_together(self, teacher: CachedTeacher) -> None:
        """Stores all of them: the processes of a run each do a part, and then look whether all is there."""
        state = PartialState()
        if state.num_processes > 1:
            self.label(teacher, Part(state.process_index + 1, state.num_processes))
            state.wait_for_everyone()
        self.label(teacher)

    def unlabelled(self, teacher: CachedTeacher) -> int:
        """How many training rows, under each view, are not stored yet."""
        rows, needs = self.splits.train.rows.numpy(), Objective(self.terms, self.splits.task).needs().teacher
        return sum(int(missing(teacher.store, rows, view, needs).sum()) for view in self.needed_views)

    @property
    def labelling_batches(self) -> int:
        """How many batches a labelling has."""
        return len(self.needed_views) * ceil(len(self.splits.train) / _ROWS)

    @property
    def needed_views(self) -> tuple[int, ...]:
        """The views that the arms will ask the teacher for: those of the training, and 0 for hard pseudo-labels."""
        if self.views == 0:
            return (0,)
        epochs = ceil(self.training.total * self.training.batch_size / len(self.splits.train))
        seen = range(1, (epochs if self.views is None else min(epochs * self._times, self.views)) + 1)
        return (0, *seen) if self.pseudo_labels else tuple(seen)

    @property
    def _times(self) -> int:
        """How often a row with a label comes in an epoch."""
        train = self.splits.train
        count = len(train.labelled())
        return 1 if self.labelled_share is None else copies(self.labelled_share, len(train) - count, count)

    @property
    def pseudo_labels(self) -> bool:
        """Whether some rows have no label, and the teacher's answers could stand in its place."""
        train = self.splits.train
        return len(train.unlabelled()) > 0 and train.task.gives not in ("vectors", "tokens")

    @property
    def without_teacher(self) -> tuple[Term, ...]:
        """What is left of the objective without a teacher, if nothing is what the task has for it.

        Labels have their full weight, with nothing beside them to share it; terms of all rows keep theirs.
        """
        left = [term for term in self.terms if not term.needs().teacher]
        return tuple(term if term.mask == REAL else term.alone() for term in left) or untaught(self.splits.task)


class _Asked(Exception):
    """A term has a rule that needs both models."""


def _ask(rule: Layers) -> list[tuple[str, str]]:
    raise _Asked


def hard_labels(examples: Examples, teacher: Teacher, device: str) -> Tensor:
    """Labels, [len(table), ...], for a student of hard pseudo-labels: given ones where seen, else the teacher's answers.

    The teacher is asked about rows as they are (view 0).
    """
    labels = examples.labels.clone()
    for ids in torch.split(examples.unlabelled(), _ROWS):
        batch = examples.batch(ids, torch.zeros_like(ids)).to(device)
        logits = teacher.observe(batch, frozenset({"logits"}))["logits"].float().cpu()
        said = examples.task.hard(logits, examples.labels[ids]).to(labels.dtype)
        # of several answers of a row some may be known
        seen = examples.supervised[ids].view(-1, *[1] * (labels.ndim - 1)) & (labels[ids] >= 0)
        labels[ids] = labels[ids].where(seen, said)
    return labels
