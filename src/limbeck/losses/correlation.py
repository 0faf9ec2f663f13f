"""Losses that forgive a shift and a scale: Pearson correlation of probabilities, and standardised logits."""

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses.taught import constant


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """``T^2 (beta inter + gamma intra)``: one minus Pearson's correlation of softened probabilities; [B, C] to [].

    Inter: over the classes of each example, mean over examples. Intra: over the batch for each class, mean over
    classes; it exists over a batch only (best 16 rows or more), and is zero for one row. In
    ``[0, 2 T^2 (beta + gamma)]``; zero when the logits of each row differ by a constant, but not when they differ by
    a factor. Two constants agree (0); a constant and a signal are uncorrelated (1), without gradient. DIST, Huang et
    al. 2022, arXiv:2205.10536; without the 1e-8 that the reference code adds to the product of norms, which would let
    rare classes disagree with themselves.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            f"Student and teacher must have logits of one shape [B, C], not {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}."
        )
    if student_logits.numel() == 0:
        return student_logits.sum()
    q = F.softmax(student_logits / temperature, -1)
    p = F.softmax(constant(teacher_logits) / temperature, -1)
    return temperature**2 * (beta * _uncorrelated(q, p, 1).mean() + gamma * _uncorrelated(q, p, 0).mean())


def standardize_logits(logits: Tensor) -> Tensor:
    """``(z - mean) / (std + 1e-7)`` over classes, in units of a row's own spread; [..., C] to [..., C].

    For student and teacher before a softened loss, so that ranges need not agree; never before the cross-entropy with
    labels. No entry exceeds ``sqrt(C - 1)``. The standard deviation is the population's, as the paper writes it; the
    reference code's ``torch.std`` divides by C - 1. Constant rows are zero, without gradient. With two classes the
    argmax alone is left, +1 and -1. Minus infinity is not supported: such a row has no mean. Sun et al. 2024,
    arXiv:2403.01427.
    """
    scaled, size, _ = _centred(logits, -1)
    # the square root of a row of zeros would have a gradient of 0 * inf
    variance = scaled.square().mean(-1, keepdim=True)
    std = torch.where(variance > 0, variance, 1.0).sqrt()
    return scaled / (std + 1e-7 / size)


def _uncorrelated(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """One minus Pearson's correlation along ``dim``: half the squared distance of unit vectors, so never negative.

    Correlation is undefined where a side is constant. Two constants are alike up to the shift and scale that it
    forgives anyway, so that is no disagreement, and a student equal to its teacher is at zero whatever the data. One
    constant says nothing of the other side: uncorrelated.
    """
    (u, flat_u), (v, flat_v) = _unit(student, dim), _unit(teacher, dim)
    return torch.where(flat_u ^ flat_v, 1.0, (u - v).square().sum(dim) / 2)


def _unit(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    scaled, _, flat = _centred(values, dim)
    square = scaled.square().sum(dim, keepdim=True)
    return scaled / torch.where(flat, 1.0, square).sqrt(), flat.squeeze(dim)


def _centred(values: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values less their mean, divided by their range (no gradient through it); the range; and where it is nothing.

    What follows does not depend on the division, which keeps squares of tiny or huge values in the dtype's range.
    Where all values are one up to rounding, the result is zero without gradient and the range 1.
    """
    fixed, limits = values.detach(), torch.finfo(values.dtype)
    size = fixed.amax(dim, keepdim=True) - fixed.amin(dim, keepdim=True)
    # softmax and mean round by a few eps of the value; below sqrt(tiny) the quotients' gradients would overflow
    flat = size <= 8 * limits.eps * fixed.abs().amax(dim, keepdim=True) + limits.tiny**0.5
    size = torch.where(flat, 1.0, size)
    return torch.where(flat, 0.0, values - values.mean(dim, keepdim=True)) / size, size, flat
