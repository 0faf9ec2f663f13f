"""Losses between second-order statistics of inner features: which channels of an example are active together, and where.

Maps are [B, C, H, W], tokens [B, L, d]; all of them give one value an example, [B]. The teacher's side is detached.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from limbeck.losses.relations import unit_rows
from limbeck.losses.responses import kl_divergence


def _shapes(*sides: Tensor) -> str:
    return " and ".join(str(list(side.shape)) for side in sides)


def _channels(feature: Tensor) -> Tensor:
    """[B, C, positions] of maps [B, C, H, W] or of tokens [B, L, C]."""
    return feature.flatten(2) if feature.ndim == 4 else feature.mT


def _gram(feature: Tensor) -> Tensor:
    channels = _channels(feature)
    return channels @ channels.mT / (channels.shape[1] * channels.shape[2])


def gram(
    student: Tensor, teacher: Tensor, form: Literal["squared", "kl"] = "squared", temperature: float = 1.0
) -> Tensor:
    """Difference of the Gram matrices of channels; maps [B, C, H, W] or tokens [B, L, C], to [B].

    ``F F^T / (C H W)``, or ``/ (C L)`` for tokens (Gatys et al. 2015, arXiv:1508.06576, with a mean for their sums). The
    number of channels must agree, that of positions need not. Zero where the Gram matrices agree: where positions
    change places, too, and where both signs do. Padded tokens count: select first.

    Args:
        student: the student's feature.
        teacher: the teacher's feature, detached here.
        form: ``squared``, the mean squared difference of the ``C x C`` entries, symmetric; or ``kl``,
            ``T^2 KL(teacher || student)`` of the softmax of each row, nats, mean over the C rows: it does not see a
            constant that is added to a row.
        temperature: divides the entries before the softmax of ``kl``; without a meaning for ``squared``.
    """
    axis = 1 if student.ndim == 4 else 2
    if student.ndim not in (3, 4) or student.ndim != teacher.ndim or student.shape[axis] != teacher.shape[axis]:
        raise ValueError(f"gram needs two maps or two tokens of the same channels, not {_shapes(student, teacher)}")
    if len(student) != len(teacher):
        raise ValueError(f"gram needs features of the same examples, not {_shapes(student, teacher)}")
    ours, theirs = _gram(student), _gram(teacher.detach())
    if form == "squared":
        return (ours - theirs).square().mean((1, 2))
    if form == "kl":
        return kl_divergence(ours, theirs, temperature).mean(1)
    raise ValueError(f'gram knows the forms "squared" and "kl", not {form!r}')


def _flow(first: Tensor, last: Tensor) -> Tensor:
    if first.ndim != 4 or last.ndim != 4 or len(first) != len(last):
        raise ValueError(f"fsp needs two maps [B, C, H, W] of the same examples a side, not {_shapes(first, last)}")
    size = min(first.shape[2], last.shape[2]), min(first.shape[3], last.shape[3])
    first, last = (side if side.shape[2:] == size else F.adaptive_avg_pool2d(side, size) for side in (first, last))
    return first.flatten(2) @ last.flatten(2).mT / (size[0] * size[1])


def fsp(student_first: Tensor, student_last: Tensor, teacher_first: Tensor, teacher_last: Tensor) -> Tensor:
    """Squared difference of flow matrices, mean over their entries; four maps [B, C, H, W] to [B].

    FSP (Yim et al., CVPR 2017): ``G = first last^T / (H W)``, channels of the first map of a stage against channels of
    its last. The paper sums over the entries. The larger map of a side is averaged down to the smaller; channels must
    agree across the sides, positions need not. Zero where the flow matrices agree. Symmetric in the two sides.
    """
    ours, theirs = _flow(student_first, student_last), _flow(teacher_first.detach(), teacher_last.detach())
    if ours.shape != theirs.shape:
        raise ValueError(
            f"fsp needs the same examples and channels on both sides, but the student's maps are "
            f"{_shapes(student_first, student_last)} and the teacher's {_shapes(teacher_first, teacher_last)}"
        )
    return (ours - theirs).square().mean((1, 2))


def _alike(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT).square().sum((1, 2))


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of channels, kernel ``(x.y)^2``; maps [B, C, H, W] to [B].

    NST (Huang & Wang 2017, arXiv:1707.01219): each channel, as a vector over the positions and of length 1, is a
    sample. The numbers of channels may differ, height and width must agree. Zero where the sets of channels agree,
    however often each appears, whatever its scale and sign; a channel that is zero everywhere stays a sample. Not
    negative, at most 2, symmetric. With more positions than channels the value is a difference of sums that are at
    most 1, and exact to their rounding.
    """
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher) or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(f"nst needs maps [B, C, H, W] of the same B, H and W, not {_shapes(student, teacher)}")
    # by the root of the count, the mean over pairs of channels becomes a sum
    ours, theirs = (unit_rows(m.flatten(2)) / m.shape[1] ** 0.5 for m in (student, teacher.detach()))
    if ours.shape[2] <= ours.shape[1] + theirs.shape[1]:
        # sum_ab (x_a.y_b)^2 is the inner product of X^T X and Y^T Y, so the whole is a squared distance of those
        gap: Tensor = ours.mT @ ours - theirs.mT @ theirs
        return gap.square().sum((1, 2))
    own, other, cross = (_alike(a, b) for a, b in ((ours, ours), (theirs, theirs), (ours, theirs)))
    return (own + other - 2 * cross).clamp_min(0.0)
