"""What a classifier remembers of its data: the statistics that its BatchNorm layers keep."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.errors import LimbeckError
from limbeck.synthesis.priors import statistics_distance


def norms_of(module: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers that keep statistics, by the name of the signal that they read."""
    return {
        f"{name}:in": one
        for name, one in module.named_modules()
        if isinstance(one, _BatchNorm) and one.running_mean is not None
    }


def demand_norms(module: nn.Module, regime: str, otherwise: str) -> None:
    """Refuses a teacher that remembers nothing of its data. ``otherwise``: what can be done without.

    Raises:
        LimbeckError: it has no BatchNorm.
    """
    if not norms_of(module):
        raise LimbeckError(
            f"In the regime {regime!r} pictures are held to the statistics that BatchNorm layers keep of the teacher's data, and "
            f"this teacher ({type(module).__name__}) has no such layer: choose a teacher with BatchNorm (such as small-resnet), "
            f"or {otherwise}."
        )


def remembered(norms: Mapping[str, Any], shown: Mapping[str, Tensor]) -> Tensor:
    """How far what the layers of ``norms`` read is from what they remember, summed over layers: a scalar."""
    far = [statistics_distance(shown[name], one.running_mean, one.running_var) for name, one in norms.items()]
    return torch.stack(far).sum()
