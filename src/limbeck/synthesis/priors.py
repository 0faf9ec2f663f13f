"""What made pictures are held to: pure functions, with a graph to every input (of a loss the teacher's side has none)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses.divergences import JensenShannon
from limbeck.losses.responses import cross_entropy, elementwise_kl


def statistics_distance(inputs: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """How far a batch's statistics are from those that a BatchNorm keeps: a scalar, 0 where they are equal.

    The length, not squared, of the difference of means and of variances (DeepInversion, Yin et al. 2020, arXiv:1912.08795). The
    batch's variance divides by the count.

    Args:
        inputs: what the layer reads, [B, C, ...].
        mean: its running mean, [C].
        variance: its running variance, [C].
    """
    others = [axis for axis in range(inputs.ndim) if axis != 1]
    found, own = torch.var_mean(inputs, others, correction=0)
    far: Tensor = torch.linalg.vector_norm(own - mean) + torch.linalg.vector_norm(found - variance)
    return far


def total_variation(pictures: Tensor) -> Tensor:
    """The lengths of a picture's differences between neighbours, across, along and on both diagonals: [B, C, H, W] to [B].

    0 where a picture is of one colour. The sum of four lengths, as in DeepInversion, which takes them over the whole batch.
    """
    x = pictures
    pairs = (
        (x[..., 1:], x[..., :-1]),
        (x[..., 1:, :], x[..., :-1, :]),
        (x[..., 1:, 1:], x[..., :-1, :-1]),
        (x[..., 1:, :-1], x[..., :-1, 1:]),
    )
    return sum((length(one - other) for one, other in pairs), start=x.new_zeros(len(x)))


def length(pictures: Tensor) -> Tensor:
    """The l2 norm of each picture, [B, ...] to [B]."""
    found: Tensor = torch.linalg.vector_norm(pictures.flatten(1), dim=1)
    return found


def competition(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 3.0) -> Tensor:
    """``1 - JS`` of the softened answers, [B, C] to [B]: 1 where they agree, ``1 - log 2`` (nats) where they exclude each other.

    Pictures that make it small are those on which the student is not yet like its teacher (DeepInversion).
    """
    log_q, log_p = (F.log_softmax(one / temperature, -1) for one in (student_logits, teacher_logits))
    values, _ = JensenShannon(0.5).parts(log_q, log_q.exp(), log_p, log_p.exp())
    return 1 - values.sum(-1)


def one_hot(teacher_logits: Tensor) -> Tensor:
    """Cross-entropy with the teacher's own likeliest class, nats, [B, C] to [B]; 0 where it is certain (DAFL).

    Chen et al. 2019, arXiv:1904.01186.
    """
    return cross_entropy(teacher_logits, teacher_logits.argmax(-1))


def information_entropy(teacher_logits: Tensor) -> Tensor:
    """The negative entropy of the mean answer, to base 10: [B, C] to a scalar (DAFL).

    ``-log10 C`` where all classes come alike often, 0 where there is but one.
    """
    log_mean = F.log_softmax(teacher_logits, -1).logsumexp(0) - math.log(
        len(teacher_logits)
    )  # finite where a share is 0
    return (log_mean.exp() * log_mean).sum() / math.log(10)


def activation(features: Tensor) -> Tensor:
    """The negative mean size of what the teacher's last layer reads, [B, ...] to [B]: real pictures stir more of it (DAFL)."""
    return -features.flatten(1).abs().mean(1)


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """``-KL(teacher || student)``, nats, [B, C] to [B]: a generator that makes it small shows where they differ.

    Zero where they agree, the most that it can be (Micaelli & Storkey 2019, arXiv:1905.09768).
    """
    return -elementwise_kl(F.log_softmax(student_logits, -1), F.log_softmax(teacher_logits, -1)).sum(-1)
