"""`Examples`: rows of a finished data set, read as a pure function of (ids, views)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.data.batch import CLASS, NO_LABEL, REAL, SUPERVISED, TOKENS, Batch


@runtime_checkable
class Reader(Protocol):
    """Raw things of one kind (images, texts, tensors) to input columns; what a delivered student needs to predict."""

    @property
    def fingerprint(self) -> str:
        """Names the preprocessing: two readers with one fingerprint give the same columns."""
        ...

    def encode(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """Input columns [len(raw), ...] for raw things, without augmentation."""
        ...


@runtime_checkable
class Table(Protocol):
    """A finished data set: rows 0..len-1, each with any number of views; view 0 is the row as it is."""

    reader: Reader

    @property
    def fingerprint(self) -> str:
        """Names content, preprocessing and augmentation: if any byte of them changes, so does this."""
        ...

    def __len__(self) -> int: ...

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Input columns for rows ``ids`` seen under ``views``: the same pair always gives the same input."""
        ...

    def raw(self, row: int) -> Any:
        """The row as the reader takes it: ``reader.encode([raw(row)])`` is what ``read`` gives under view 0.

        Plain values and tensors only: a text, an image (uint8 tensor [channels, height, width]), columns by name.
        """
        ...

    def show(self, row: int) -> Any:
        """The row for a person: a text, or an image array (uint8, [height, width] or [height, width, 3])."""
        ...


@dataclass(frozen=True)
class Examples:
    """Some rows of a table with their labels.

    ``rows``: int64 [n]. ``labels``: int64 [len(table)], ``NO_LABEL`` where unknown. ``supervised``: bool [len(table)],
    the rows whose label the student may see. ``mixup``: the Beta parameter, 0 for none; views above 0 are mixed.
    """

    table: Table
    rows: Tensor
    labels: Tensor
    supervised: Tensor
    classes: tuple[str, ...]
    mixup: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Names rows, labels, table and mixing."""
        from limbeck.data.fingerprint import tensors

        own = tensors({"rows": self.rows, "labels": self.labels[self.rows], "supervised": self.supervised[self.rows]})
        return digest([self.table.fingerprint, own, list(self.classes), self.mixup])

    @property
    def inputs_fingerprint(self) -> str:
        """Names what a teacher sees for (id, view): all of the above but the labels and the choice of rows."""
        from limbeck.data.fingerprint import tensors

        parts = tensors({"supervised": self.supervised, "rows": self.rows}) if self.mixup else ""
        return digest([self.table.fingerprint, self.mixup, parts])

    def labelled(self) -> Self:
        """Only the rows whose label may be seen."""
        return replace(self, rows=self.rows[self.supervised[self.rows]])

    def relabelled(self, labels: Tensor) -> Self:
        """The same rows, every one supervised, with other labels (int64 [len(table)]): pseudo-labels."""
        supervised = self.supervised.clone()
        supervised[self.rows] = True
        return replace(self, labels=labels, supervised=supervised)

    def batch(self, ids: Tensor, views: Tensor) -> Batch:
        """The batch of rows ``ids`` under ``views``, both int64 [B]. A pure function."""
        from limbeck.data.augment import mixed

        inputs = self.table.read(ids, views)
        supervised = self.supervised[ids]
        labels = torch.where(supervised, self.labels[ids], NO_LABEL)
        if self.mixup > 0:
            inputs, labels = mixed(self, ids, views, inputs, labels)
        masks = {REAL: torch.ones(len(ids), dtype=torch.bool), SUPERVISED: supervised}
        if "attention_mask" in inputs:
            masks[TOKENS] = inputs["attention_mask"].bool()
        return Batch(inputs, {CLASS: labels}, masks, ids, views)


@dataclass(frozen=True)
class Splits:
    """Train, validation and test parts of one data set. Choices are made on validation; the test part is read once."""

    train: Examples
    validation: Examples
    test: Examples

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices."""
        return self.train.classes

    @property
    def reader(self) -> Reader:
        """What turns raw things into the student's inputs."""
        return self.train.table.reader
