"""How alike two layers are, whatever their widths: measures, not losses."""

import torch
from torch import Tensor


@torch.no_grad()
def linear_cka(student: Tensor, teacher: Tensor) -> Tensor:
    """Debiased linear centred kernel alignment of the same examples' features; [n, ...] and [n, ...] to [], float64.

    CKA (Kornblith et al. 2019, arXiv:1905.00414) with the unbiased estimator of HSIC (Song et al. 2012; Nguyen et al.
    2021, arXiv:2010.15327): the biased one comes near 1 for unrelated features that are wider than there are examples.
    In [-1, 1]: 1 where one side is the other rotated, shifted or scaled as a whole, near 0 (or a little below) for
    unrelated ones, and 0 where a side tells no example from another. Symmetric. A measure, without gradients.
    """
    if len(student) != len(teacher):
        raise ValueError(
            f"the student's {list(student.shape)} and the teacher's {list(teacher.shape)} must be of the same examples"
        )
    return (unit_kernel(student) * unit_kernel(teacher)).sum()


@torch.no_grad()
def unit_kernel(feature: Tensor) -> Tensor:
    """The examples' U-centred linear kernel, [n, ...] to [n, n], float64, of Frobenius norm 1, or zero.

    The sum of two such kernels' products is `linear_cka`. Zero for features that are constant, or whose examples are
    all equally far apart.
    """
    if feature.ndim < 2 or len(feature) < 4 or feature.numel() == 0:
        raise ValueError(f"centred kernel alignment needs at least 4 examples [n, ...], not {list(feature.shape)}")
    size, x = len(feature), feature.flatten(1).double()
    x = x - x.mean(0)
    largest = x.abs().max()
    x = x / torch.where(largest > 0, largest, 1.0)  # then squares neither overflow nor vanish
    kernel = x @ x.T
    rounding = 1e-12 * kernel.norm()  # less than that is left of a kernel that should vanish
    kernel.fill_diagonal_(0.0)
    rows = kernel.sum(0) / (size - 2)
    kernel = kernel - rows - rows[:, None] + rows.sum() / (size - 1)
    kernel.fill_diagonal_(0.0)
    norm = kernel.norm()
    return torch.where(norm > rounding, kernel / torch.where(norm > 0, norm, 1.0), 0.0)
