"""A teacher that learns while it teaches."""

import copy
from typing import Any

import torch
from torch import nn

from limbeck.data.batch import Batch
from limbeck.signals.capture import Signals
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Provides


class LearningTeacher:
    """A copy of a model that is asked as it is now. Whoever teaches it trains ``module``, whose parameters have gradients.

    It stays in evaluation mode: its dropout draws nothing, and BatchNorm's statistics are as they were.

    Args:
        module: the model as it begins; it is copied, and not altered.
        device: where it lives.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        self.module = copy.deepcopy(module).to(device).eval()
        for one in self.module.parameters():
            one.requires_grad_(one.is_floating_point())
        self._asked = LocalTeacher(self.module, "moves")

    @property
    def fingerprint(self) -> None:
        """None: it moves."""
        return None

    @property
    def provides(self) -> Provides:
        """Any signal that the model has."""
        return self._asked.provides

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals, without a graph; see `Teacher.observe`."""
        return self._asked.observe(batch, needs)

    def state_dict(self) -> dict[str, Any]:
        """The model as it is."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.module.load_state_dict(state)
