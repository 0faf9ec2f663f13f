"""`Examples`: rows of a finished data set, read as a pure function of (ids, views)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.data.batch import ALIKE, CLASS, DECODED, DOMAIN, NO_LABEL, REAL, SUPERVISED, TOKENS, Batch
from limbeck.data.mixup import mixed
from limbeck.data.reader import Reader
from limbeck.data.sifting.filter import Rejected
from limbeck.data.table import Table
from limbeck.data.task import ASKED, Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import LimbeckError, nearest


@dataclass(frozen=True)
class Domains:
    """What the rows of a table are from, such as law or news: ``names``, and each row's, int64 [len(table)]."""

    names: tuple[str, ...]
    rows: Tensor

    @classmethod
    def of(cls, named: Sequence[str]) -> Self:
        """From a name a row."""
        names = tuple(sorted(set(named)))
        return cls(names, torch.tensor([names.index(name) for name in named]))

    def of_rows(self, rows: Tensor) -> list[str]:
        """The names of these rows', int64 [n]."""
        return [self.names[place] for place in self.rows[rows].tolist()]

    @property
    def fingerprint(self) -> str:
        """Names all of it."""
        from limbeck.data.fingerprint import tensors

        return digest([list(self.names), tensors({"rows": self.rows})])


@dataclass(frozen=True)
class Examples:
    """Some rows of a table with their labels.

    ``rows``: int64 [n]. ``labels``: int64 [len(table)], ``NO_LABEL`` where unknown; of other tasks [len(table), ...].
    ``supervised``: bool [len(table)], the rows whose label the student may see. ``classes``: the names of the model's
    outputs. ``mixup``: the Beta parameter, 0 for none; views above 0 are mixed. ``task``: what is asked of an example.
    ``keep_labels``: whether rows that the table altered keep their label; if not, they are not supervised under that view.
    ``domains``: what the rows of the table are from, where the source names it.
    """

    table: Table
    rows: Tensor
    labels: Tensor
    supervised: Tensor
    classes: tuple[str, ...]
    mixup: float = 0.0
    task: Task = CLASSES
    keep_labels: bool = True
    domains: Domains | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Names rows, labels, table and mixing."""
        from limbeck.data.fingerprint import tensors

        own = tensors({"rows": self.rows, "labels": self.labels[self.rows], "supervised": self.supervised[self.rows]})
        asked = [*([] if self.task == CLASSES else [self.task]), *([] if self.keep_labels else ["altered: no label"])]
        asked += [self.domains.fingerprint] if self.domains is not None else []
        return digest([self.table.fingerprint, own, list(self.classes), self.mixup, *asked])

    @property
    def spread(self) -> float:
        """Of numbers, the mean square of their distance from their mean; else 1."""
        if self.task.gives != "numbers":
            return 1.0
        known = self.labels[self.rows].double()
        known = known[known.isfinite().all(1)]
        return float((known - known.mean(0)).square().mean()) if len(known) else 1.0

    @property
    def inputs_fingerprint(self) -> str:
        """Names what a teacher sees for (id, view): all of the above but the labels and the choice of rows."""
        from limbeck.data.fingerprint import tensors

        parts = tensors({"supervised": self.supervised, "rows": self.rows}) if self.mixup else ""
        domains = [] if self.domains is None else [self.domains.fingerprint]
        return digest([self.table.fingerprint, self.mixup, parts, *domains])

    def as_read_by(self, side: str) -> Self:
        """The same rows for a model of one side alone, ``student`` or ``teacher``, with labels at the tokens of its tokenizer."""
        texts = self.table.texts
        if side == "student" or texts is None or texts.theirs is None or self.task.reads != "sequences":
            return self
        return replace(self, table=texts.theirs, labels=texts.theirs.placed(self.labels, self.task))

    def labelled(self) -> Self:
        """Only the rows whose label may be seen."""
        return replace(self, rows=self.rows[self.supervised[self.rows]])

    def by_length(self, side: str = "student") -> Tensor:
        """The places in ``rows`` in the order in which a model is best asked, int64 [n]: texts by their number of tokens, so that
        little of a batch is padding; all else as it stands.
        """
        texts = self.table.texts
        if texts is None:
            return torch.arange(len(self))
        return texts.lengths(side)[self.rows].argsort(stable=True)

    def of_classes(self, classes: Sequence[int]) -> Self:
        """Only the rows whose label is one of these."""
        wanted = torch.tensor(list(classes))
        return replace(self, rows=self.rows[torch.isin(self.labels[self.rows], wanted)])

    def with_labels_as(self, share: float) -> Self:
        """The same rows, those whose label may be seen repeated until they are about ``share`` of all; each once at least."""
        known = self.supervised[self.rows]
        others, labelled = self.rows[~known], self.rows[known]
        times = copies(share, len(others), len(labelled))
        return self if times == 1 else replace(self, rows=torch.cat([others, labelled.repeat(times)]))

    def unlabelled(self) -> Tensor:
        """The rows with a label that may not be seen, or, of several tasks, is not known; int64."""
        partly = (self.labels == ASKED).any(1) if self.task.heads else torch.zeros(len(self.labels), dtype=torch.bool)
        return self.rows[(~self.supervised | partly)[self.rows]]

    def only(self, head: str) -> Self:
        """The same rows, of which nothing but one of several tasks is asked: examples of one class."""
        labels, one = self.task.labels_of(self.labels, head), self.task.heads[head]
        return replace(
            self, labels=labels, supervised=self.supervised & (labels >= 0), classes=one.classes, task=CLASSES
        )

    def revealed(self) -> Self:
        """The same rows, every one supervised whose label is known, hidden or not: a yardstick, which nothing may learn from."""
        supervised = self.supervised.clone()
        supervised[self.rows] |= self.task.strata(self.labels)[self.rows] != NO_LABEL
        return replace(self, supervised=supervised)

    def relabelled(self, labels: Tensor) -> Self:
        """The same rows, every one supervised, with other labels (int64 [len(table)]): pseudo-labels."""
        supervised = self.supervised.clone()
        supervised[self.rows] = True
        return replace(self, labels=labels, supervised=supervised)

    def batch(self, ids: Tensor, views: Tensor) -> Batch:
        """The batch of rows ``ids`` under ``views``, both int64 [B]. A pure function."""
        inputs = self.table.read(ids, views)
        supervised = self.supervised[ids]
        if not self.keep_labels:
            supervised = supervised & ~self.table.altered(ids, views)
        told = inputs.get(DECODED, inputs.get("input_ids"))
        length = 0 if told is None else told.shape[1]
        labels = self.task.column(self.labels[ids], supervised, length)
        if self.domains is not None:
            labels[DOMAIN] = self.domains.rows[ids]
        if self.mixup > 0:
            inputs, labels[CLASS] = mixed(self, ids, views, inputs, labels[CLASS])
        masks = {REAL: torch.ones(len(ids), dtype=torch.bool), SUPERVISED: supervised}
        if "attention_mask" in inputs:
            masks[TOKENS] = inputs["attention_mask"].bool()
        if (texts := self.table.texts) is not None and "teacher.input_ids" in inputs:
            masks[ALIKE] = texts.alike(inputs)
        return Batch(inputs, labels, masks, ids, views)


def copies(share: float, others: int, repeated: int) -> int:
    """How often each of ``repeated`` rows must come for them to be about ``share`` of all, beside as many ``others``."""
    return max(1, round(share / (1 - share) * others / repeated)) if repeated else 1


@dataclass(frozen=True)
class Splits:
    """Train, validation and test parts of one data set. Choices are made on validation; the test part is read once.

    ``rejected``: training rows that filters left out.
    """

    train: Examples
    validation: Examples
    test: Examples
    rejected: tuple[Rejected, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices."""
        return self.train.classes

    @property
    def task(self) -> Task:
        """What is asked of an example."""
        return self.train.task

    def of(self, domains: Domains) -> Self:
        """The same rows, with what each is from."""
        parts = {name: replace(getattr(self, name), domains=domains) for name in ("train", "validation", "test")}
        return replace(self, **parts)

    def only(self, head: str) -> Self:
        """Of one of several tasks; validation and test hold the rows that have a label of it."""
        validation, test = (part.only(head).labelled() for part in (self.validation, self.test))
        return replace(self, train=self.train.only(head), validation=validation, test=test)

    def of_class_names(self, names: Sequence[str]) -> Self:
        """Of some classes alone, for what learns nothing else; the test is of all.

        Raises:
            LimbeckError: rows have no class, or there is none of a name.
        """
        if unknown := [name for name in names if name not in self.classes]:
            there = (
                nearest(unknown[0], list(self.classes)) or f"the classes are {', '.join(self.classes[:12]) or 'none'}."
            )
            raise LimbeckError(f"There is no class {unknown[0]!r}: {there}")
        known = [self.classes.index(name) for name in names]
        return replace(self, train=self.train.of_classes(known), validation=self.validation.of_classes(known))

    @property
    def reader(self) -> Reader:
        """What turns raw things into the student's inputs."""
        return self.train.table.reader
