"""The tasks: one class, several labels, numbers; those of tokens and of vectors have files of their own."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from limbeck.data.batch import CLASS, NO_LABEL, VALUE, Batch
from limbeck.data.labels import flagged, measured, single
from limbeck.data.language import NextToken, TextToText
from limbeck.data.multi_task import MultiTask
from limbeck.data.task import ASKED, Answered, Common, Gives, averaged, summed
from limbeck.data.token_tasks import Spans, Tags
from limbeck.data.vectors import Vectors
from limbeck.errors import LimbeckError

_QUANTILES = 10


class Classes(Common):
    """One class an example."""

    measure: ClassVar[str] = "accuracy"
    single: ClassVar[bool] = True
    named: ClassVar[bool] = True
    outputs: ClassVar[str] = "classes"
    constant: ClassVar[str] = "always answering the commonest class"
    metrics: ClassVar[tuple[str, ...]] = ("f1-macro", "f1-weighted", "balanced-accuracy", "mcc", "auroc", "top-5")

    name: Literal["classes"] = "classes"

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """See `labels.single`."""
        return single(labels, where, names)

    def strata(self, labels: Tensor) -> Tensor:
        """The classes."""
        return labels

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``class``, int64 [B]."""
        return {CLASS: torch.where(supervised, labels, NO_LABEL)}

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The class, int64 [B]."""
        return logits.argmax(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax."""
        return logits.softmax(-1)

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """The name of the class."""
        return [names[index] for index in labels.tolist()]

    def scores(self, answered: Answered) -> Tensor:
        """1 where it is right."""
        return averaged((answered.logits.argmax(-1) == answered.labels).double(), answered)

    def floor(self, labels: Tensor) -> float:
        """The share of the commonest class."""
        return int(labels.bincount().max()) / len(labels)


class MultiLabel(Common):
    """Any number of labels an example, each a choice between no and yes."""

    measure: ClassVar[str] = "F1"
    outputs: ClassVar[str] = "labels"
    constant: ClassVar[str] = "always giving the commonest labels"
    metrics: ClassVar[tuple[str, ...]] = ("f1-micro", "f1-macro", "subset-accuracy")

    name: Literal["multi-label"] = "multi-label"

    def head(self) -> dict[str, Any]:
        """That each output is a choice of its own."""
        return {"problem_type": "multi_label_classification"}

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """See `labels.flagged`."""
        return flagged(labels, where, names)

    def strata(self, labels: Tensor) -> Tensor:
        """The rarest label of each row; one more for rows with none."""
        known = (labels >= 0).any(1)
        often = (labels == 1).sum(0)
        count = torch.where(labels == 1, often, len(labels) + 1)
        rarest = torch.where((labels == 1).any(1), count.argmin(1), labels.shape[1])
        return torch.where(known, rarest, NO_LABEL)

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``class``, int64 [B, K]: 0 or 1."""
        return {CLASS: torch.where(supervised[:, None] & (labels >= 0), labels, ASKED)}

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """[B, K, 2]: the softmax over (0, z) is the sigmoid of z."""
        return torch.stack([torch.zeros_like(logits), logits], -1)

    def logits(self, answers: Tensor) -> Tensor:
        """By how much yes is above no, [B, K]."""
        return answers[..., 1] - answers[..., 0]

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """0 or 1, int64 [B, K]."""
        return (logits > 0).long()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of yes: the sigmoid."""
        return logits.sigmoid()

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """A list of the names that hold."""
        return [[name for name, holds in zip(names, row, strict=True) if holds] for row in labels.tolist()]

    def scores(self, answered: Answered) -> Tensor:
        """F1 of each example's labels; 1 where there are none and none is given."""
        said = (answered.logits.argmax(-1) == 1).double()
        true = (answered.labels == 1).double()
        both, ours, theirs = (summed(one, answered) for one in (said * true, said, true))
        return torch.where(ours + theirs > 0, 2 * both / (ours + theirs).clamp_min(1), 1.0)

    def floor(self, labels: Tensor) -> float:
        """The best of: no label, the commonest one, the two commonest ones, and so on."""
        true = (labels == 1).double()
        ordered = true[:, true.sum(0).argsort(descending=True, stable=True)]
        given = torch.arange(1, labels.shape[1] + 1, dtype=torch.float64)
        each = 2 * ordered.cumsum(1) / (ordered.sum(1, keepdim=True) + given)
        return float(max((true.sum(1) == 0).double().mean(), each.mean(0).max()))


class Numbers(Common):
    """One number an example, or several (regression). The score is what is explained of their variance (R squared)."""

    measure: ClassVar[str] = "R²"
    cost: ClassVar[str] = "mse"
    single: ClassVar[bool] = True
    gives: ClassVar[Gives] = "numbers"
    constant: ClassVar[str] = "always answering the mean"
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mae", "rmse")

    name: Literal["numbers"] = "numbers"

    def head(self) -> dict[str, Any]:
        """That outputs are numbers."""
        return {"problem_type": "regression"}

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """See `labels.measured`."""
        return measured(labels, where, names)

    def strata(self, labels: Tensor) -> Tensor:
        """The tenth of the rows that the first number is in."""
        known = labels[:, 0].isfinite()
        inner = torch.arange(1, _QUANTILES, dtype=torch.float64) / _QUANTILES
        edges = torch.quantile(labels[known, 0].double(), inner) if bool(known.any()) else inner
        return torch.where(known, torch.bucketize(labels[:, 0].double().nan_to_num(), edges), NO_LABEL)

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``value``, float32 [B, d]; 0 where it is not to be seen. ``class`` says where it is."""
        known = supervised & labels.isfinite().all(1)
        return {
            VALUE: torch.where(known[:, None], labels, 0.0).float(),
            CLASS: torch.where(known, 0, NO_LABEL),
        }

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The numbers, float [B, d]."""
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Refused: numbers have none."""
        raise LimbeckError("Numbers have no probabilities: use predict() or logits().")

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """The number, or a tuple of them."""
        return [row[0] if len(row) == 1 else tuple(row) for row in labels.tolist()]

    def scores(self, answered: Answered) -> Tensor:
        """1 less the squared error by the mean square of the labels' distance from their mean."""
        errors = (answered.logits.double() - answered.labels.double()).square().mean(-1)
        return averaged(1 - errors / max(answered.spread, 1e-12), answered)

    def floor(self, labels: Tensor) -> float:
        """0, by definition."""
        return 0.0


CLASSES = Classes()
TASKS: tuple[type[Common], ...] = (Classes, MultiLabel, MultiTask, Tags, Spans, Numbers, Vectors, NextToken, TextToText)
"""What a recipe's ``data.task`` may name."""
