"""Losses between inner features."""

import torch
from torch import Tensor


def hint(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference, one value an example: [B, ...] and [B, ...] to [B]. Zero at a match only.

    FitNets (Romero et al. 2015, arXiv:1412.6550), with the mean over all elements of an example, so that the size of a
    layer does not change the meaning of a weight.

    Args:
        student: the student's feature, already projected to the teacher's shape.
        teacher: the teacher's feature, detached here.
        mask: boolean, [B, L] for features [B, L, d]: positions that count; an example with none is zero.
    """
    gap = student - teacher.detach()
    if mask is None:
        return gap.square().flatten(1).mean(1)
    gap = torch.where(mask.unsqueeze(-1), gap, 0.0)  # before the square, whose gradient would be 0 * nan
    return gap.square().mean(2).sum(1) / mask.sum(1).clamp_min(1)
