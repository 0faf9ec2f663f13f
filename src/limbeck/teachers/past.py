"""The average of a model's own past, that teaches it, or is delivered in its place."""

import copy
from typing import Any

import torch
from torch import nn

from limbeck.signals.capture import bare
from limbeck.teachers.moving import Moving


class MovingAverage(Moving):
    """A copy of a model that follows it: after every step its weights are ``m`` times its own and ``1 - m`` times the model's.

    ``m`` is ``momentum``, and at first ``1 - 1 / step``, so that the average is not of what the model was before it had learnt
    anything (Tarvainen & Valpola 2017, arXiv:1703.01780). Buffers, such as BatchNorm's, are the model's own.

    Args:
        student: the model, as its training begins.
        momentum: from 0, the model itself, to 1, what it was in the beginning.
    """

    def __init__(self, student: nn.Module, momentum: float) -> None:
        super().__init__(copy.deepcopy(bare(student)).requires_grad_(False))
        self._momentum = momentum

    @torch.no_grad()
    def stepped(self, student: nn.Module, place: Any) -> None:
        """Follows by one step; ``place.step`` steps are done."""
        part = 1 - min(self._momentum, 1 - 1 / place.step)
        model = bare(student)
        for mine, theirs in zip(self.module.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs.to(mine), part)
        for kept, own in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(own)
