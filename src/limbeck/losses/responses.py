"""Losses between two sets of logits, and between logits and labels. All of them: logits [..., C] to values [...].

Everything is computed in the dtype it is given, from `log_softmax`; callers upcast half precision first, before any
division by a temperature. The teacher's side is constant (see `taught`). T^2 (Hinton, Vinyals & Dean 2015,
arXiv:1503.02531) keeps the gradient's size when T changes, and stands here and nowhere else.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses.taught import constant


def elementwise_kl(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """The one elementwise definition: ``p (log p - log q)``, [..., C]; 0 where p is 0, minus infinity included."""
    p = teacher_log_probs.exp()
    # where p is 0 both logs may be minus infinity, and 0 * (inf - inf) is not a number
    gap = torch.where(p > 0, teacher_log_probs - student_log_probs, 0.0)
    return p * gap


def _log_probs(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    t = temperature.unsqueeze(-1) if isinstance(temperature, Tensor) and temperature.ndim else temperature
    return F.log_softmax(student_logits / t, -1), F.log_softmax(constant(teacher_logits) / t, -1)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """``T^2 KL(teacher || student)`` of softened distributions, nats, [..., C] to [...].

    Zero when the logits differ by a constant only. Gradient: ``T (q - p)``. At T = 1 this is the forward KL; as T
    grows it tends to half the mean squared difference of centred logits. Hinton et al. 2015, arXiv:1503.02531.
    ``temperature``: a number, or one an example [...].
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    return temperature**2 * elementwise_kl(log_q, log_p).sum(-1)


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """``T^2`` times the cross-entropy against the softened teacher, nats, [..., C] to [...].

    The KL divergence plus ``T^2`` times the teacher's entropy: the same gradient, but not zero at a match.
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    p = log_p.exp()
    return temperature**2 * -(p * torch.where(p > 0, log_q, 0.0)).sum(-1)


def probability_mse(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """``T^2`` times the squared distance of the softened probabilities, summed over classes; [..., C] to [...]."""
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    return temperature**2 * (log_q.exp() - log_p.exp()).square().sum(-1)


def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The squared distance of centred logits, mean over classes; [..., C] to [...]. Zero when they differ by a constant.

    Ba & Caruana 2014 (arXiv:1312.6184), with the softmax's free constant taken out: half of it is the limit of
    `kl_divergence` for a large temperature.
    """
    gap = student_logits - constant(teacher_logits)
    return (gap - gap.mean(-1, keepdim=True)).square().mean(-1)


def entropy(logits: Tensor) -> Tensor:
    """The entropy of softmax(logits), nats; [..., C] to [...]. Minus infinity counts nothing."""
    log_p = F.log_softmax(logits, -1)
    p = log_p.exp()
    return -torch.where(p > 0, p * log_p, 0.0).sum(-1)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, nats; logits [..., C] and labels int64 [...] or probabilities [..., C], to values [...].

    Rows whose label is negative are zero. ``smoothing``: the share of the target spread evenly over all classes
    (Szegedy et al. 2016, arXiv:1512.00567).
    """
    log_q = F.log_softmax(logits, -1)
    if labels.is_floating_point():
        # a class without a share may have a logit of minus infinity, and 0 * inf is not a number
        hard = -torch.where(labels > 0, labels.to(log_q.dtype) * log_q, 0.0).sum(-1)
        known = labels.sum(-1) > 0
    else:
        known = labels >= 0
        hard = -log_q.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    value = hard if smoothing == 0 else (1 - smoothing) * hard - smoothing * log_q.mean(-1)
    return torch.where(known, value, 0.0)
