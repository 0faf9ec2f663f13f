"""`across`: what is known of one source, for another: labelled rows of the one, rows without a label of the other."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from limbeck.config import Config
from limbeck.data.batch import NO_LABEL
from limbeck.data.kinds import Plain
from limbeck.data.raw import Raw
from limbeck.data.splits import balanced
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_TEST = 17  # salt


class Across(Config):
    """Rows of two sources with the same classes, as two domains, for unsupervised domain adaptation.

    All rows of ``labelled`` but its own test part have their labels, and validation is drawn from them, as nothing else is
    known. Of ``target`` the training rows lose their labels when they are read, so that nothing can learn from them; the test
    part is of the target alone.
    """

    name: Literal["across"] = "across"
    """The kind of source."""
    labelled: Plain
    """The source whose labels are known."""
    target: Plain
    """The source that the student is for."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of the target's rows to judge by, where it has no test part of its own."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides which those are."""

    def load(self, task: Task = CLASSES) -> Raw:
        """Both, the labelled one first.

        Raises:
            DataError: they have other classes or forms, or the task is another.
        """
        if task != CLASSES:
            raise DataError(f"'source: across' is for the task 'classes', not {task.name!r}.")
        known, target = self.labelled.load(task), self.target.load(task)
        if known.kind != target.kind:
            raise DataError(
                f"{known.name} holds {known.kind} and {target.name} {target.kind}: both must be of one kind."
            )
        if sorted(known.classes) != sorted(target.classes):
            raise DataError(
                f"{known.name} has the classes {list(known.classes)[:12]} and {target.name} {list(target.classes)[:12]}: both "
                "must have the same."
            )
        theirs = torch.tensor([known.classes.index(name) for name in target.classes])[target.labels.clamp_min(0)]
        theirs[target.labels == NO_LABEL] = NO_LABEL
        tested = self._tested(target, theirs)
        rows = _without(known)
        hidden = theirs.clone()
        hidden[others(len(target), tested)] = NO_LABEL
        return Raw(
            known.kind,
            _joined(known, rows, target),
            torch.cat([known.labels[rows], hidden]),
            known.classes,
            test=len(rows) + tested,
            name=f"{known.name} and {target.name}",
            domains=(*[f"labelled: {known.name}"] * len(rows), *[f"target: {target.name}"] * len(target)),
        )

    def _tested(self, target: Raw, labels: Tensor) -> Tensor:
        if target.test is not None:
            return target.test
        pool = (labels != NO_LABEL).nonzero()[:, 0]
        return balanced(pool, labels, round(self.test * len(pool)), self.seed, _TEST)


def _without(raw: Raw) -> Tensor:
    """Its rows but those of its test part."""
    return torch.arange(len(raw)) if raw.test is None else others(len(raw), raw.test)


def others(count: int, rows: Tensor) -> Tensor:
    """Of so many rows all but these."""
    free = torch.ones(count, dtype=torch.bool)
    free[rows] = False
    return free.nonzero()[:, 0]


def _joined(known: Raw, rows: Tensor, target: Raw) -> Any:
    if known.kind == "texts":
        ours, theirs = cast(Any, known.items), cast(Any, target.items)
        return [*(ours[row] for row in rows.tolist()), *theirs]
    of_one_size([known, target], "across")
    return torch.cat([cast(Tensor, known.items)[rows], cast(Tensor, target.items)])


def of_one_size(several: Sequence[Raw], source: str) -> None:
    """The images of several sources can be joined.

    Raises:
        DataError: they cannot. ``source``: who joins them.
    """
    for raw in several:
        if not isinstance(raw.items, Tensor):
            raise DataError(
                f"{raw.name} is a folder of images, and 'source: {source}' takes images that are read at once."
            )
    first = several[0]
    for raw in several[1:]:
        if (ours := cast(Tensor, first.items).shape[1:]) != (theirs := cast(Tensor, raw.items).shape[1:]):
            raise DataError(
                f"{first.name} has images {list(ours)} (channels, height, width) and {raw.name} {list(theirs)}: all must be of "
                "one size."
            )
