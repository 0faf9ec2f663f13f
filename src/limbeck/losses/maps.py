"""Losses that read a feature as a map of activations, [B, C, H, W], to one value an example [B].

Everything is computed in the dtype it is given; the teacher's side is detached.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses.features import check_channels, check_shapes, hint, positions, scaled, unit
from limbeck.losses.responses import kl_divergence


def _check_maps(student: Tensor, teacher: Tensor) -> None:
    check_shapes(student, teacher)
    if student.ndim != 4:
        raise ValueError(f"a map is [B, C, H, W], not {list(student.shape)}")


def _check_mask(mask: Tensor, tokens: Tensor) -> None:
    if tokens.ndim != 3 or mask.shape != tokens.shape[:2]:
        raise ValueError(f"a mask is [B, L] for tokens [B, L, d], not {list(mask.shape)} for {list(tokens.shape)}")


def _attention(feature: Tensor, power: float) -> Tensor:
    x = positions(feature)
    x = scaled(x.flatten(1)).reshape(x.shape)  # the norm below takes the scale out again
    return unit(x.abs().pow(power).mean(-1))


def attention_map(student: Tensor, teacher: Tensor, power: float = 2.0, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of where two features are active: maps [B, C, H, W] or tokens [B, L, d], to [B].

    Attention transfer (Zagoruyko & Komodakis 2017, arXiv:1612.03928): ``Q = vec(mean over channels of |F|^power)``,
    divided by its L2 norm over positions. Channel counts may differ, positions must agree. Zero where the attention is
    the same, whatever the scale; at most 2 / positions. A feature of zeros has Q = 0. Mean over positions, as in the
    authors' code, whose usual weight 1000 needs it; the paper writes the norm itself.

    Args:
        student: the student's feature.
        teacher: the teacher's feature, detached here.
        power: at least 1 (below, the gradient at 0 is infinite); the larger, the more the strongest channels count.
        mask: boolean [B, L] for tokens: positions that count; an example with none is zero.
    """
    if power < 1:
        raise ValueError(f"the power of an attention map is at least 1, not {power}")
    # tokens agree in [B, L], maps in [B, H, W]
    places = [side.shape[:2] if side.ndim == 3 else (side.shape[0], *side.shape[2:]) for side in (student, teacher)]
    if student.ndim not in (3, 4) or student.ndim != teacher.ndim or places[0] != places[1]:
        raise ValueError(
            f"the student's {list(student.shape)} and the teacher's {list(teacher.shape)} must both be maps "
            "[B, C, H, W] or both tokens [B, L, d], and agree in all but the channels: pool first"
        )
    if mask is None:
        return (_attention(student, power) - _attention(teacher.detach(), power)).square().mean(1)
    _check_mask(mask, student)
    ours, theirs = (torch.where(mask.unsqueeze(-1), side, 0.0) for side in (student, teacher.detach()))
    return (_attention(ours, power) - _attention(theirs, power)).square().sum(1) / mask.sum(1).clamp_min(1)


def ofd(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Partial squared distance to the teacher before its ReLU, summed over the elements of an example, to [B].

    Overhaul of feature distillation (Heo et al. 2019, arXiv:1904.01866): the target is ``max(teacher, margin)``, and
    what lies below a target that is not positive costs nothing, since a ReLU follows. Zero at a match, and also where
    the student is lower than that. A sum, as in the paper: the usual weight is 1e-3.

    Args:
        student: the student's projected feature: map, tokens or vectors.
        teacher: the teacher's feature before its ReLU, detached here.
        margin: [C], at most 0, one a channel: see `negative_mean`.
    """
    check_shapes(student, teacher)
    a, b = positions(student), positions(teacher.detach())
    check_channels("margin", margin, a)
    target = torch.maximum(b, margin.detach())
    gap = torch.where((a > target) | (target > 0), a - target, 0.0)
    return gap.square().sum((1, 2))


def negative_mean(mean: Tensor, std: Tensor) -> Tensor:
    """``E[x | x < 0]`` for ``x ~ N(mean, std^2)``: the margins of `ofd`, [C] and [C] to [C], at most 0, no gradient.

    The mean and std are a batch normalisation's shift and scale, whose sign does not matter. Exact where the authors'
    code falls back on ``-3 std`` (a mean above some 3 std). Where std is 0 it is the limit, ``min(mean, 0)``.
    """
    if mean.shape != std.shape:
        raise ValueError(f"the mean {list(mean.shape)} and the std {list(std.shape)} must have the same shape")
    mean, std = mean.detach(), std.detach().abs()
    ratio = mean / torch.where(std > 0, std, 1.0)
    # mean - std phi(r) / Phi(-r), where phi(r) / Phi(-r) = sqrt(2 / pi) / erfcx(r / sqrt(2))
    near = mean - std * (math.sqrt(2 / math.pi) / torch.special.erfcx(ratio / math.sqrt(2)))
    # for large r the two terms cancel; what they leave is 1 / (r + 2 / (r + 3 / (r + ...))), after Laplace
    r = ratio.clamp_min(4.0)
    tail = r
    for k in range(40, 1, -1):
        tail = r + k / tail
    value = torch.where(ratio > 4, -std / tail, near)
    return torch.where(std > 0, value, mean).clamp_max(0.0)


def review(student: Tensor, teacher: Tensor, levels: Sequence[int] = (4, 2, 1)) -> Tensor:
    """Hierarchical context loss: mean squared differences of ever coarser maps, [B, C, H, W] to [B]. Zero at a match.

    ReviewKD (Chen et al. 2021, arXiv:2104.09044): the mean squared difference of the maps, plus 1/2, 1/4, ... times
    that of both average-pooled to each level, over the sum of the weights. Default weight 1.

    Args:
        student: the student's fused and projected map.
        teacher: the teacher's map, detached here.
        levels: sides of the pooled maps; one that is not below H is skipped, and the next takes its weight.
    """
    _check_maps(student, teacher)
    if any(level < 1 for level in levels):
        raise ValueError(f"the levels are sides of pooled maps, at least 1, not {list(levels)}")
    value, weight, total = hint(student, teacher), 1.0, 1.0
    for level in levels:
        if level >= student.shape[2]:
            continue
        weight /= 2
        total += weight
        value = value + weight * hint(F.adaptive_avg_pool2d(student, level), F.adaptive_avg_pool2d(teacher, level))
    return value / total


def mgd(student: Tensor, teacher: Tensor, mask: Tensor, generate: Callable[[Tensor], Tensor]) -> Tensor:
    """Squared distance of what is generated from a masked student to the teacher, summed over an example, to [B].

    Masked generative distillation (Yang et al. 2022, arXiv:2205.01529). Zero where the generator restores the teacher,
    which at student = teacher it need not. A sum, as in the paper: the usual weight for classification is 7e-5.

    Args:
        student: the student's feature, aligned to the teacher's channels.
        teacher: the teacher's feature, detached here.
        mask: 0 or false where the student is hidden; it broadcasts, as [B, C, 1, 1] (channels) or [B, 1, H, W] (cells).
        generate: the generation block, from a feature to one of the teacher's shape.
    """
    check_shapes(student, teacher)
    sides = zip(reversed(mask.shape), reversed(student.shape), strict=False)
    if mask.ndim > student.ndim or any(side not in (1, whole) for side, whole in sides):
        raise ValueError(f"the mask {list(mask.shape)} must broadcast to the feature {list(student.shape)}")
    generated = generate(torch.where(mask.bool(), student, 0.0))
    check_shapes(generated, teacher)
    return (generated - teacher.detach()).square().flatten(1).sum(1)


def channel_wise(student: Tensor, teacher: Tensor, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """``T^2 KL(teacher || student)`` of each channel's softmax over positions, nats, mean over channels: to [B].

    Channel-wise distillation (Shu et al. 2021, arXiv:2011.13256), of maps [B, C, H, W] or tokens [B, L, d]. Zero where each
    channel differs by a constant only. A channel of minus infinity everywhere counts as constant. Usual weights: 3 (logits,
    T = 4), 50 (features). ``mask``: boolean [B, L] for tokens: positions that count; an example with none is zero.
    """
    check_shapes(student, teacher)
    if student.ndim not in (3, 4):
        raise ValueError(f"positions are those of a map [B, C, H, W] or of tokens [B, L, d], not {list(student.shape)}")
    if mask is not None:
        _check_mask(mask, student)

    def flat(side: Tensor) -> Tensor:
        side = positions(side).mT
        side = side if mask is None else side.masked_fill(~mask.unsqueeze(1), -torch.inf)
        return torch.where((side == -torch.inf).all(-1, keepdim=True), 0.0, side)

    return kl_divergence(flat(student), flat(teacher), temperature).mean(1)
