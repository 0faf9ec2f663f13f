"""Elastic weight consolidation: weights that mattered for earlier tasks are held (Kirkpatrick et al. 2017, arXiv:1612.00796)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.config import Config
from limbeck.data.examples import Examples
from limbeck.signals.call import call, logits_of
from limbeck.signals.capture import bare
from limbeck.training.stage import Stage


class Ewc(Config):
    """Half of ``weight`` times the sum over weights of F (theta - theta*)^2 is added to what is minimised.

    theta* are the weights that the task before left, F the sum of the tasks' Fisher informations, each divided by its mean.
    """

    weight: Annotated[float, Field(gt=0)] = 100.0
    """The paper's lambda, for an F whose mean is 1 a task."""
    rows: Annotated[int, Field(ge=1)] = 128
    """Of how many rows of a task its Fisher information is the mean."""
    decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    """What the information of earlier tasks is multiplied with at each new one (online EWC, Schwarz et al. 2018)."""


def fisher(module: nn.Module, examples: Examples, rows: int) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of each parameter that is trained, float32, divided by the mean over all of them.

    The mean over examples of the squared gradient of log p(y | x), each example's by itself and in expectation over the model's
    own answers y, computed and not drawn. In evaluation mode; buffers are no parameters. ``examples``: of one class each.
    """
    module = module.eval().requires_grad_(True)
    named = dict(module.named_parameters())
    sums = {name: torch.zeros_like(one) for name, one in named.items()}
    spread = torch.linspace(0, len(examples) - 1, min(rows, len(examples))).long()
    ids = examples.rows[spread]
    for row in torch.split(ids, 1):
        inputs = examples.batch(row, torch.zeros_like(row)).columns("student")
        with torch.enable_grad():
            said = F.log_softmax(logits_of(call(module, inputs))[0].float(), -1)
            for place, p in enumerate(said.detach().exp()):
                found = torch.autograd.grad(said[place], list(named.values()), retain_graph=True, allow_unused=True)
                for name, one in zip(named, found, strict=True):
                    if one is not None:
                        sums[name] += p * one.square()
    mean = sum(float(one.sum()) for one in sums.values()) / sum(one.numel() for one in sums.values())
    return {name: one / mean if mean else one for name, one in sums.items()}


@dataclass(frozen=True)
class Elastic:
    """EWC in one training; see `limbeck.training.stage.Keeping`. ``names``: the models of ``anchor`` and ``importance``."""

    settings: Ewc
    names: tuple[str, ...]
    anchor: Mapping[str, Tensor] = field(repr=False)
    importance: Mapping[str, Tensor] = field(repr=False)

    def plain(self) -> dict[str, Any]:
        """The settings, and whose weights they are."""
        return {"ewc": self.settings.plain(), "of": list(self.names)}

    def part(self, stage: Stage, student: nn.Module) -> "Pull":
        """What adds the gradient of the penalty."""
        return Pull(self.anchor, self.importance, self.settings.weight)


class Pull:
    """Adds weight F (theta - theta*) to the gradients, which is the gradient of the penalty."""

    def __init__(self, anchor: Mapping[str, Tensor], importance: Mapping[str, Tensor], weight: float) -> None:
        self.anchor, self.importance, self.weight = anchor, importance, weight

    @torch.no_grad()
    def gradients(self, model: nn.Module) -> None:
        """Told before clipping."""
        student: Any = getattr(bare(model), "student", model)
        for name, one in student.named_parameters():
            if one.grad is not None and name in self.importance:
                gap = one - self.anchor[name].to(one)
                one.grad.add_(self.importance[name].to(one) * gap, alpha=self.weight)
