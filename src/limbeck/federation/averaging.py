"""What a server makes of its clients' letters: the mean of weights, and the mean of logits."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import torch
from torch import Tensor

from limbeck.errors import LimbeckError

Counting = Literal["alike", "rows", "classes"]
_MEAN: Final = "running_mean"
_VARIANCE: Final = "running_var"


def averaged(states: Sequence[Mapping[str, Tensor]], rows: Sequence[int]) -> dict[str, Tensor]:
    """The mean of K states, each counting by its rows (FedAvg: McMahan et al. 2017, arXiv:1602.05629).

    Computed in float64. A BatchNorm layer's running variance is that of all rows together, each client's about the common mean:
    sum of w (variance + (mean - common mean)^2). Whole numbers count batches or name places, and have no mean: the largest.

    Raises:
        LimbeckError: there are none, or none has a row.
    """
    total = sum(rows)
    if not states or total <= 0:
        raise LimbeckError("Nothing can be averaged: no client answered that learnt from a row.")
    weights = torch.tensor(rows, dtype=torch.float64) / total
    found = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            found[name] = torch.stack([one[name].long() for one in states]).amax(0).to(first.dtype)
            continue
        every = _stacked(states, name)
        mean = torch.tensordot(weights, every, 1)
        layer, _, last = name.rpartition(".")
        centre = f"{layer}.{_MEAN}".lstrip(".")
        if last == _VARIANCE and centre in states[0]:
            means = _stacked(states, centre)
            mean = mean + torch.tensordot(weights, (means - torch.tensordot(weights, means, 1)).square(), 1)
        found[name] = mean.to(first.dtype)
    return found


def _stacked(states: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    return torch.stack([one[name].double() for one in states])


def agreed(
    logits: Sequence[Tensor], rows: Sequence[int], classes: Sequence[tuple[int, ...]], by: Counting = "alike"
) -> Tensor:
    """The mean of K clients' logits, float32 [P, C] (FedDF: Lin et al. 2020, arXiv:2006.07242).

    ``by``: each counts the same, as in the paper; by its rows; or of each class by its rows of that class, so that who never saw
    a class is not heard about it. Of a class that none has seen, all are heard alike.

    Args:
        logits: K of [P, C].
        rows: how many each learnt from.
        classes: how many of each class, K of C numbers; read by ``classes`` alone.
        by: what each counts.

    Raises:
        LimbeckError: there are none.
    """
    if not logits:
        raise LimbeckError("Nothing can be agreed upon: no client answered.")
    every = torch.stack([one.double() for one in logits])
    if by == "classes":
        weights = torch.tensor(classes, dtype=torch.float64)
        weights = torch.where(weights.sum(0) > 0, weights, 1.0)
    elif by == "rows":
        weights = torch.tensor(rows, dtype=torch.float64)[:, None]
    else:
        weights = torch.ones(len(logits), 1, dtype=torch.float64)
    weights = weights / weights.sum(0)
    return (weights[:, None] * every).sum(0).float()
