"""The task of several questions to each example: one student with a head for each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from limbeck.config import Config
from limbeck.data.batch import CLASS, NO_LABEL, REAL, SUPERVISED, Batch
from limbeck.data.labels import single
from limbeck.data.task import ASKED, NEVER, Answered, Common, Head, averaged
from limbeck.errors import DataError, LimbeckError

_BETWEEN: Final = ": "  # a task and one of its classes, in the name of an output


class Asks(Config):
    """One of the questions."""

    name: Annotated[str, Field(pattern=r"^[^.:]+$", max_length=40)]
    """What the task is called."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """What it is a choice among, in the order of the head's outputs."""


class MultiTask(Common):
    """Several questions to each example, each with one class of its own for an answer.

    A model's outputs are the heads side by side, [B, sum of classes], and are called ``task: class``. A row may have the labels
    of some tasks only. Labels are numbers of outputs, int64 [N, K]; answers are [B, K, outputs], where none but the outputs of a
    head can be chosen. The score of an example is the share of its known answers that are right.
    """

    measure: ClassVar[str] = "accuracy"
    named: ClassVar[bool] = True
    outputs: ClassVar[str] = "classes"
    constant: ClassVar[str] = "always answering the commonest class of each task"
    metrics: ClassVar[tuple[str, ...]] = ("f1-macro", "f1-weighted", "balanced-accuracy")

    name: Literal["multi-task"] = "multi-task"
    tasks: tuple[Asks, ...] = ()
    """The tasks and their classes, in order; left out: the columns of labels, with the classes that occur there."""

    @model_validator(mode="after")
    def _names_of_their_own(self) -> Self:
        names = [one.name for one in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two tasks are called {twice[0]!r}: give each a name of its own")
        return self

    @property
    def heads(self) -> Mapping[str, Head]:
        """The heads by the names of their tasks, in order; none before the tasks are known."""
        found, start = dict[str, Head](), 0
        for place, one in enumerate(self.tasks):
            found[one.name] = Head(one.name, place, start, start + len(one.classes), one.classes)
            start += len(one.classes)
        return found

    def asking(self, names: Sequence[str]) -> Self:
        """The task with the tasks that these names of outputs tell of."""
        found: dict[str, list[str]] = {}
        for name in names:
            task, _, one = name.partition(_BETWEEN)
            found.setdefault(task, []).append(one)
        return self.model_copy(
            update={"tasks": tuple(Asks(name=task, classes=tuple(classes)) for task, classes in found.items())}
        )

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Numbers of outputs, int64 [N, K], and their names. ``ASKED``: nobody knows; ``NO_LABEL``: a task is not asked there.

        ``labels``: for each row a label for each task, in order or by the task's name, as `labels.named` takes them; None where
        it is not known, -100 where the task is not asked; None for a row without any. ``names``: of the tasks; those of the
        recipe if left out.

        Raises:
            DataError: a row has another number of labels, a task has no label or one class, or as `labels.single`.
        """
        told = [one.name for one in self.tasks] or self._named(labels, where, names)
        self._check(told, where, names)
        rows = [self._row(row, told, where, place) for place, row in enumerate(labels)]
        columns, outputs = list[Tensor](), list[str]()
        for place, name in enumerate(told):
            given = self.tasks[place].classes if self.tasks else None
            found, classes = single([row[place] for row in rows], f"{where}, {name!r}", given)
            if not self.tasks and not bool((found >= 0).any()):
                raise DataError(f"{where}: no row has a label of the task {name!r}. Is it the right column?")
            if len(classes) < 2:
                raise DataError(
                    f"{where}: every label of the task {name!r} is {classes[0]!r}: two classes at least are needed to learn a "
                    "difference. Leave the task out."
                )
            unasked = torch.tensor([isinstance(row[place], int) and row[place] == NO_LABEL for row in rows])
            columns.append(torch.where(found >= 0, found + len(outputs), torch.where(unasked, NO_LABEL, ASKED)))
            outputs += [f"{name}{_BETWEEN}{one}" for one in classes]
        return torch.stack(columns, 1), tuple(outputs)

    def _named(self, labels: Sequence[Any], where: str, names: Sequence[str] | None) -> list[str]:
        if names:
            return list(names)
        first = next((row for row in labels if row is not None), None)
        if not isinstance(first, Mapping | list | tuple):
            raise DataError(
                f"{where}: the task 'multi-task' needs several labels a row, a column for each (label: [ONE, OTHER]), but there "
                "is one: write 'task: classes'."
            )
        return [str(one) for one in (first if isinstance(first, Mapping) else range(1, len(first) + 1))]

    def _check(self, told: Sequence[str], where: str, names: Sequence[str] | None) -> None:
        if names and self.tasks and list(names) != list(told) and not all(_BETWEEN in name for name in names):
            raise DataError(
                f"{where} has the labels {', '.join(names)}, and 'data.task' says that the tasks are {', '.join(told)}: name the "
                "same ones, in the same order."
            )
        if len(told) != len(set(told)):
            raise DataError(f"{where}: the same task is named twice among {', '.join(told)}.")
        for name in told:
            if not name or len(name) > 40 or "." in name or ":" in name:
                raise DataError(
                    f"{where}: a task cannot be called {name!r}, as its name becomes part of others: rename the column to at "
                    "most 40 characters without '.' and ':'."
                )

    @staticmethod
    def _row(row: Any, told: Sequence[str], where: str, place: int) -> list[Any]:
        if row is None:
            return [None] * len(told)
        if isinstance(row, Mapping):
            if strange := sorted(set(map(str, row)) - set(told)):
                raise DataError(
                    f"{where}: row {place} has a label of the task {strange[0]!r}; there are {', '.join(told)}."
                )
            return [row.get(name) for name in told]
        if not isinstance(row, list | tuple) or len(row) != len(told):
            has = f"{len(row)} labels" if isinstance(row, list | tuple) else f"the label {row!r}"
            raise DataError(
                f"{where}: row {place} has {has}, but there are {len(told)} tasks: {', '.join(told)}. Give a label for each, "
                "empty where there is none."
            )
        return list(row)

    def without_labels(self, rows: int) -> Tensor:
        """``ASKED``, [rows, K]."""
        return torch.full((rows, max(1, len(self.tasks))), ASKED)

    def strata(self, labels: Tensor) -> Tensor:
        """A number for each combination of labels, missing ones included."""
        found: Tensor = torch.unique(labels, dim=0, return_inverse=True)[1]
        return found.where((labels >= 0).any(1), NO_LABEL)

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``class``, int64 [B, K]: numbers of outputs; ``NO_LABEL`` where a task is not asked."""
        return {CLASS: torch.where(supervised[:, None] | (labels < 0), labels, ASKED)}

    def headed(self, batch: Batch, head: str) -> Batch:
        """The batch of one task alone: ``class`` is int64 [B]. Rows are supervised that have its label; of those where it is not
        asked none counts.
        """
        own = self.labels_of(batch.labels[CLASS], head)
        asked = batch.labels[CLASS][:, self.heads[head].place] != NO_LABEL
        masks = {**batch.masks, REAL: batch.masks[REAL] & asked, SUPERVISED: batch.masks[SUPERVISED] & (own >= 0)}
        return replace(batch, labels={**batch.labels, CLASS: own}, masks=masks)

    def labels_of(self, labels: Tensor, head: str) -> Tensor:
        """Of labels [N, K] those of one task, as the classes of its head, int64 [N]."""
        one = self.heads[head]
        own = labels[:, one.place]
        return torch.where(own >= 0, own - one.start, NO_LABEL)

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """[B, K, outputs]."""
        return logits[:, None].where(self._whose(logits.device), NEVER)

    def logits(self, answers: Tensor) -> Tensor:
        """Of each task those of its own head, [B, outputs]."""
        return answers.where(self._whose(answers.device), 0.0).sum(1)

    def _whose(self, device: torch.device) -> Tensor:
        """Whether an output is of a task's head, bool [K, outputs]."""
        sizes = torch.tensor([len(one.classes) for one in self.tasks])
        of = torch.arange(len(sizes)).repeat_interleave(sizes)
        return (of == torch.arange(len(sizes))[:, None]).to(device)

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Numbers of outputs, int64 [B, K]; ``NO_LABEL`` where a task is not asked, ``ASKED`` where a teacher knows nothing."""
        cut = [logits[:, one.start : one.stop] for one in self.heads.values()]
        said = [one.argmax(1) + head.start for one, head in zip(cut, self.heads.values(), strict=True)]
        known = [(one > NEVER).any(1) for one in cut]
        found = torch.stack([a.where(b, ASKED) for a, b in zip(said, known, strict=True)], 1)
        return found.where(labels != NO_LABEL, NO_LABEL)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax, head by head."""
        return torch.cat([logits[..., one.start : one.stop].softmax(-1) for one in self.heads.values()], -1)

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """The class of each task, by its name."""
        pairs = [[names[one].partition(_BETWEEN)[::2] for one in row if one >= 0] for row in labels.tolist()]
        return [dict(row) for row in pairs]

    def scores(self, answered: Answered) -> Tensor:
        """The share of each example's answers that are right."""
        return averaged((answered.logits.argmax(-1) == answered.labels).double(), answered)

    def floor(self, labels: Tensor) -> float:
        """The mean over examples, each task being answered with the class that is best for it."""
        if not self.tasks:
            raise LimbeckError("The tasks are not known yet: `asking` tells them.")
        known = labels >= 0
        share = (known / known.sum(1, keepdim=True).clamp_min(1)).double()
        right = torch.zeros(max(one.stop for one in self.heads.values()), dtype=torch.float64)
        right.index_add_(0, labels[known], share[known])
        best = sum(float(right[one.start : one.stop].max()) for one in self.heads.values())
        return best / len(labels)
