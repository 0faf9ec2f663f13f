"""Gradients that do no harm to earlier tasks: averaged episodic memory (A-GEM, Chaudhry et al. 2019, arXiv:1812.00420)."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.config import Config
from limbeck.data.batch import CLASS
from limbeck.data.examples import Examples
from limbeck.objective.schedules import Place
from limbeck.signals.call import call, logits_of
from limbeck.signals.capture import bare, evaluating
from limbeck.training.order import Order, derived
from limbeck.training.stage import Stage


class Projection(Config):
    """A step that would make the loss on remembered rows larger goes at right angles to their gradient instead."""

    rows: Annotated[int, Field(ge=1)] = 200
    """Rows of earlier tasks that are remembered."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """How many of them are asked in each step."""


@dataclass(frozen=True)
class Projected:
    """A-GEM in one training; see `limbeck.training.stage.Keeping`. ``memory``: rows of earlier tasks with their labels."""

    settings: Projection
    memory: Examples

    def plain(self) -> dict[str, Any]:
        """The settings, and which rows."""
        return {"projection": self.settings.plain(), "memory": self.memory.fingerprint}

    def part(self, stage: Stage, student: nn.Module) -> "RightAngle":
        """What changes the gradients."""
        size = min(self.settings.batch_size, len(self.memory))
        return RightAngle(self.memory, Order(self.memory.rows, size, derived(stage.seed, "memory"), 0), stage.side)


class RightAngle:
    """Takes from the gradient what points against that of the cross-entropy on a batch of the memory, another one each step.

    The student answers it in evaluation mode, so that its running statistics stay as they are.
    """

    def __init__(self, memory: Examples, order: Order, side: str) -> None:
        self.memory, self.order, self.side, self.step = memory, order, side, 0

    def at(self, place: Place) -> None:
        """Told before a step."""
        self.step = place.step

    def gradients(self, model: nn.Module) -> None:
        """Told before clipping."""
        student: Any = getattr(bare(model), "student", model)
        moving = [one for one in student.parameters() if one.grad is not None]
        against = self._gradients(student, moving)
        straighten([one.grad for one in moving if one.grad is not None], against)

    def _gradients(self, student: nn.Module, moving: list[nn.Parameter]) -> list[Tensor]:
        ids, views = self.order.step(self.step)
        batch = self.memory.batch(ids, views).to(moving[0].device)
        with evaluating(student), torch.enable_grad():
            logits = logits_of(call(student, batch.columns(self.side)))
            loss = F.cross_entropy(logits.float(), batch.labels[CLASS])
            found = torch.autograd.grad(loss, moving, allow_unused=True)
        return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(moving, found, strict=True)]


@torch.no_grad()
def straighten(gradients: list[Tensor], against: list[Tensor]) -> None:
    """``g - (g . r / r . r) r`` in place, where g . r is below 0, r being ``against``; else nothing is changed."""
    dot = sum(float((g.double() * r.double()).sum()) for g, r in zip(gradients, against, strict=True))
    size = sum(float(r.double().square().sum()) for r in against)
    if dot < 0 and size > 0:
        for g, r in zip(gradients, against, strict=True):
            g.sub_(r.to(g), alpha=dot / size)
