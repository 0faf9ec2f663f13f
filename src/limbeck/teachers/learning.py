"""A teacher that learns while it teaches."""

import copy

import torch
from torch import nn

from limbeck.teachers.moving import Moving


class LearningTeacher(Moving):
    """A copy of a model. Whoever teaches it trains ``module``, whose parameters have gradients.

    Its dropout draws nothing, and BatchNorm's statistics are as they were.

    Args:
        module: the model as it begins; it is copied, and not altered.
        device: where it lives.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        super().__init__(copy.deepcopy(module).to(device))
        for one in self.module.parameters():
            one.requires_grad_(one.is_floating_point())
