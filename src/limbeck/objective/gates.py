"""Gates: which examples a term learns from, and how much."""

from typing import Annotated, Literal, Protocol

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from limbeck.config import Config
from limbeck.data.batch import CLASS, Batch
from limbeck.losses.responses import entropy, kl_divergence
from limbeck.signals.capture import Signals

_Share = Annotated[float, Field(ge=0, le=1)]


class Gating(Protocol):
    """Which examples a term learns from, and how much. It reads logits, under whatever names."""

    @property
    def student(self) -> frozenset[str]:
        """What it reads of the student."""
        ...

    @property
    def teacher(self) -> frozenset[str]:
        """What it reads of the teacher."""
        ...

    def weights(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """One weight an example in 0..1, [B], detached."""
        ...


class Gate(Config):
    """A score in 0..1 for each example, from the logits at T = 1 and without a gradient.

    With neither ``above`` nor ``below`` the score itself weighs the example; with one of them, or both, it is kept or left
    out. What is left out stays in the denominator: fewer kept examples mean a smaller loss, and the kept share is reported.
    """

    by: Literal["teacher-confidence", "teacher-certainty", "teacher-correct", "student-difficulty", "gap"]
    """``teacher-confidence``: its highest probability. ``teacher-certainty``: 1 less its entropy by that of the uniform
    distribution. ``teacher-correct``: 1 where its answer is the label (or there is no label), else 0.
    ``student-difficulty``: the student's entropy by that of the uniform distribution. ``gap``: 1 - exp(-KL(teacher ||
    student))."""
    above: _Share | None = None
    """Keep the examples whose score is higher."""
    below: _Share | None = None
    """Keep the examples whose score is lower."""

    @property
    def student(self) -> frozenset[str]:
        """What it reads of the student."""
        return frozenset({"logits"}) if self.by in ("student-difficulty", "gap") else frozenset()

    @property
    def teacher(self) -> frozenset[str]:
        """What it reads of the teacher."""
        return frozenset() if self.by == "student-difficulty" else frozenset({"logits"})

    @torch.no_grad()
    def weights(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """One weight an example in 0..1, [B], detached."""
        score = self._score(student, teacher, batch)
        if self.above is None and self.below is None:
            return score
        kept = torch.ones_like(score, dtype=torch.bool)
        if self.above is not None:
            kept &= score > self.above
        if self.below is not None:
            kept &= score < self.below
        return kept.to(score.dtype)

    def _score(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        if self.by == "student-difficulty":
            return _share(student["logits"])
        logits = teacher["logits"]
        if self.by == "teacher-confidence":
            return logits.softmax(-1).amax(-1)
        if self.by == "teacher-certainty":
            return 1 - _share(logits)
        if self.by == "gap":
            return -torch.expm1(-kl_divergence(student["logits"], logits).clamp_min(0))
        labels = batch.labels[CLASS]
        if labels.is_floating_point():
            return (logits.argmax(-1) == labels.argmax(-1)).to(logits.dtype)
        return ((logits.argmax(-1) == labels) | (labels < 0)).to(logits.dtype)


def _share(logits: Tensor) -> Tensor:
    """The entropy by its largest value, in 0..1."""
    most = torch.log(torch.tensor(float(logits.shape[-1]), dtype=logits.dtype, device=logits.device))
    return (entropy(logits) / most.clamp_min(torch.finfo(logits.dtype).tiny)).clamp(0, 1)


def _named(value: object) -> object:
    return {"by": value} if isinstance(value, str) else value


GateField = Annotated[Gate, BeforeValidator(_named, json_schema_input_type=str | Gate)]
"""A gate in a recipe: its settings, or the name of its score alone."""


class Kept(nn.Module):
    """How much of each class a gate kept; the last entry is of examples without a label."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(classes + 1, 2, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, weights: Tensor, batch: Batch) -> None:
        """Adds the weights of these examples."""
        sums: Tensor = self.get_buffer("sums")
        if not self.training:
            return
        labels = batch.labels[CLASS]
        labels = labels.argmax(-1) if labels.is_floating_point() else labels
        index = torch.where((labels >= 0) & (labels < len(sums) - 1), labels, len(sums) - 1)
        sums.index_add_(0, index, torch.stack([weights, torch.ones_like(weights)], 1).to(sums.dtype))

    def shares(self) -> list[float | None]:
        """The share kept of each class, then of the examples without a label; None where there was none."""
        sums: Tensor = self.get_buffer("sums")
        return [float(kept / seen) if seen else None for kept, seen in sums.tolist()]
