"""Losses between inner features: vectors [B, d], tokens [B, L, d] or maps [B, C, H, W], to one value an example [B].

Both sides have the same shape where nothing else is said: project and pool first. Everything is computed in the dtype
it is given; the teacher's side is detached. `maps` holds the losses that need a map.
"""

import torch
from torch import Tensor


def check_shapes(student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError, with both shapes, unless they are equal: broadcasting would give a meaningless number."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's {list(student.shape)} and the teacher's {list(teacher.shape)} must have the same shape: "
            "project and pool first"
        )


def positions(feature: Tensor) -> Tensor:
    """Features as [B, positions, C], channels last: maps [B, C, H, W], tokens [B, L, d], vectors [B, d]."""
    if feature.ndim not in (2, 3, 4):
        raise ValueError(f"a feature is [B, d], [B, L, d] or [B, C, H, W], not {list(feature.shape)}")
    if feature.ndim == 4:
        return feature.flatten(2).transpose(1, 2)
    return feature if feature.ndim == 3 else feature.unsqueeze(1)


def check_channels(name: str, given: Tensor, feature: Tensor) -> None:
    """Raise ValueError unless ``given`` is [C] for a feature [B, positions, C]."""
    if given.shape != feature.shape[-1:]:
        raise ValueError(f"the {name} is {list(given.shape)}, and must be [{feature.shape[-1]}], one a channel")


def scaled(vector: Tensor) -> Tensor:
    """[..., n] over its largest magnitude, a constant to autograd: for what does not see a scale. Zero stays zero.

    Powers then neither overflow nor vanish.
    """
    largest = vector.detach().abs().amax(-1, keepdim=True)
    number = torch.finfo(vector.dtype)
    seen = largest > number.tiny / number.eps  # dividing by less could give an infinite gradient
    return torch.where(seen, vector / torch.where(seen, largest, 1.0), 0.0)


def unit(vector: Tensor) -> Tensor:
    """[..., n] over its L2 norm; a zero vector stays zero, with a gradient of zero."""
    vector = scaled(vector)
    energy = vector.square().sum(-1, keepdim=True)
    return vector / torch.where(energy > 0, energy, 1.0).sqrt()  # the slope of a root at 0 is infinite


def _masked(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both sides as [B, positions, C], the teacher detached, and zero where the mask is false."""
    check_shapes(student, teacher)
    a, b = positions(student), positions(teacher.detach())
    if mask is None:
        return a, b
    if student.ndim != 3 or mask.shape != student.shape[:2]:
        raise ValueError(f"a mask is [B, L] for tokens [B, L, d], not {list(mask.shape)} for {list(student.shape)}")
    counts = mask.unsqueeze(-1)
    return torch.where(counts, a, 0.0), torch.where(counts, b, 0.0)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """[B, positions], zero where the mask is false, to the mean over the positions that count; with none, zero."""
    return values.mean(1) if mask is None else values.sum(1) / mask.sum(1).clamp_min(1)


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


def simkd(student: Tensor, teacher: Tensor) -> Tensor:
    """`hint` under its name in SimKD: the mean squared difference of the projected last feature; default weight 1.

    Chen et al. 2022 (arXiv:2203.14001), where it is the only loss and the student keeps the teacher's classifier.
    """
    check_shapes(student, teacher)
    return hint(student, teacher)


def squared_euclidean(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared distance summed over features, mean over positions, to [B]. Zero at a match only.

    `hint` times the number of features. ``mask``: boolean [B, L] for tokens; an example with none is zero.
    """
    a, b = _masked(student, teacher, mask)
    return _mean((a - b).square().sum(-1), mask)


def cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """``1 - cos`` over features (the channels of a map), mean over positions, to [B]; from 0 to 2.

    Zero where the directions agree. A zero vector has none: the loss is 0 where both sides are zero, a match like any
    other, and 1, as at a right angle, with a gradient of zero, where one is. ``mask``: boolean [B, L] for tokens; an
    example with none is zero.
    """
    a, b = (unit(side) for side in _masked(student, teacher, mask))
    # half the squared distance of unit vectors is 1 - cos, exactly 0 at a match and never below
    value = 0.5 * (a - b).square().sum(-1)
    one_sided = (a == 0).all(-1) != (b == 0).all(-1)
    return _mean(torch.where(one_sided, 1.0, value), mask)


def vid(student: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """``((t - mu)^2 / variance + log variance) / 2``, nats, mean over the elements of an example, to [B].

    Variational information distillation (Ahn et al. 2019, arXiv:1904.05835): minus the log-likelihood of the teacher
    under a Gaussian, less ``log(2 pi) / 2``. Can be negative: smallest, for a given prediction, where the variance is
    the mean squared error of its channel. At a match it is half the mean log variance. The paper sums over elements;
    the mean is that of the usual default weight, 1.

    Args:
        student: the predicted mean mu, in the teacher's shape: vectors, tokens or maps.
        teacher: the teacher's feature, detached here.
        variance: [C], above 0, one a channel (the last dimension of vectors and tokens), learnt: it gets a gradient.
    """
    check_shapes(student, teacher)
    gap = positions(student) - positions(teacher.detach())
    check_channels("variance", variance, gap)
    return 0.5 * (gap.square() / variance + variance.log()).mean((1, 2))


def jacobian(student_gradient: Tensor, teacher_gradient: Tensor, normalize: bool = True) -> Tensor:
    """Squared distance of two gradients by the input, summed over the input, [B, ...] to [B]. Zero at a match.

    With ``normalize`` each is first divided by its L2 norm over the example (Srinivas & Fleuret 2018,
    arXiv:1803.00443): from 0 to 4, blind to positive scales; a gradient of zero stays zero. Without: Sobolev training
    (Czarnecki et al. 2017, arXiv:1706.04859); times the variance of small white noise on the input it is what the noise
    adds to the expected squared difference of the outputs.

    Args:
        student_gradient: of one output an example, taken with ``create_graph=True``.
        teacher_gradient: of the same output of the teacher, detached here.
        normalize: whether the lengths are taken out.
    """
    check_shapes(student_gradient, teacher_gradient)
    a, b = student_gradient.flatten(1), teacher_gradient.detach().flatten(1)
    if normalize:
        a, b = unit(a), unit(b)
    return (a - b).square().sum(1)


def gradient_penalty(gradient: Tensor) -> Tensor:
    """The squared length of a gradient by the input, summed over the input, [B, ...] to [B]. Zero where nothing changes.

    Of the gradient of ``sum_c s_c z_c`` with signs s drawn evenly its expectation is the squared Frobenius norm of the Jacobian
    of the logits z (Hoffman et al. 2019, arXiv:1908.02729, who draw directions from the sphere and multiply by the number of
    classes). Of a loss it is double backpropagation (Drucker & Le Cun 1992).

    Args:
        gradient: taken with ``create_graph=True``.
    """
    return gradient.flatten(1).square().sum(1)
