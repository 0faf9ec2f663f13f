"""Losses that take the label's class apart from the others: logits [..., C], labels int64 [...], to values [...].

Notation: ``y`` the label, ``p`` the teacher, ``q`` the student, both softened by T; ``p_hat``, ``q_hat`` the same over
the classes other than ``y``, divided by ``1 - p_y``. Rows whose label is negative are zero. Labels are classes:
probabilities, as from mixed images, have no one target and are refused.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses.responses import cross_entropy, elementwise_kl, soft_cross_entropy
from limbeck.losses.taught import constant


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float | Tensor = 1.0,
    beta: float | Tensor = 8.0,
    temperature: float | Tensor = 4.0,
) -> Tensor:
    """Decoupled distillation, ``T^2 (alpha KL(b_p || b_q) + beta KL(p_hat || q_hat))``, nats, [..., C] to [...].

    ``b_p = (p_y, 1 - p_y)``. Zero when the logits differ by a constant only. With ``alpha = 1`` and
    ``beta = 1 - p_y`` it is `kl_divergence`; with two classes the second part is zero. The second part knows nothing
    of the target's logit. Zhao et al. 2022, arXiv:2203.08679; their reference code masks with -1000, here the target
    is left out exactly. Its warm-up over epochs is left to the schedule of the weight.
    ``alpha``, ``beta``, ``temperature``: a number, or one an example [...].
    """
    _check(student_logits, teacher_logits, labels)
    target_q, others_q = _split(student_logits, labels, temperature)
    target_p, others_p = _split(constant(teacher_logits), labels, temperature)
    target = _weighted(alpha, elementwise_kl(target_q, target_p).sum(-1))
    others = _weighted(beta, elementwise_kl(others_q, others_p).sum(-1))
    return torch.where(labels >= 0, temperature**2 * (target + others), 0.0)


def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    gamma: float = 1.5,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Normalised distillation, ``-p_y log q_y - gamma T^2 sum p_hat log q_hat``, nats, [..., C] to [...].

    The first part is at T = 1 whatever the temperature. Two cross-entropies, so not zero at a match; nor is the
    gradient there, for the first part pulls ``q_y`` to 1. The second part alone is smallest at a match. Yang et al.
    2023, arXiv:2303.13005. ``temperature``: a number, or one an example [...].
    """
    _check(student_logits, teacher_logits, labels)
    known = labels >= 0
    p_y = F.softmax(constant(teacher_logits), -1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    target = _weighted(p_y, cross_entropy(student_logits, labels))
    _, others_q = _split(student_logits, labels, temperature)
    _, others_p = _split(constant(teacher_logits), labels, temperature)
    p_hat = others_p.exp()
    others = -(p_hat * torch.where(p_hat > 0, others_q, 0.0)).sum(-1)
    return torch.where(known, target + _weighted(gamma, temperature**2 * others), 0.0)


def wsld(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float | Tensor = 2.0) -> Tensor:
    """Weighted soft labels, ``w T^2 CE(p, q)``, nats, [..., C] to [...]; `soft_cross_entropy`, weighted by example.

    ``w = 1 - exp(-CE_s / CE_t)``, both cross-entropies against the label at T = 1, without gradient: an example that
    the student knows better than the teacher counts little. Not zero at a match, where ``w = 1 - 1/e`` and the
    gradient is zero. Zhou et al. 2021, arXiv:2102.00650. ``temperature``: a number, or one an example [...].
    """
    _check(student_logits, teacher_logits, labels)
    ce_s, ce_t = (cross_entropy(z, labels) for z in (student_logits.detach(), constant(teacher_logits)))
    # a cross-entropy is known to about eps, so a certain teacher counts as eps; inf / inf would not be a number
    limits = torch.finfo(ce_s.dtype)
    weight = -torch.expm1(-ce_s.clamp_max(limits.max) / ce_t.clamp(limits.eps, limits.max))
    return _weighted(weight, soft_cross_entropy(student_logits, teacher_logits, temperature))


def label_smoothing(student_logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy against ``1 - smoothing`` on the label and the rest even over all classes, nats, [..., C] to [...].

    The baseline without a teacher: but for a constant it is ``(1 - smoothing)`` cross-entropy and ``smoothing`` times
    `kl_divergence` from a uniform teacher at T = 1 (Yuan et al. 2020, arXiv:1909.11723). Not zero at its minimum.
    """
    _check(student_logits, student_logits, labels)
    return cross_entropy(student_logits, labels, smoothing)


def _check(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"Student and teacher must have logits of one shape, not {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}."
        )
    if labels.shape != student_logits.shape[:-1] or labels.is_floating_point():
        raise ValueError(
            f"Labels must be one class a row of logits {tuple(student_logits.shape)}, not {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )


def _split(logits: Tensor, labels: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (target, all others), [..., 2], and of each class given that it is not the target, [..., C].

    The second is minus infinity at the target, and everywhere if no other class is possible.
    """
    t = temperature.unsqueeze(-1) if isinstance(temperature, Tensor) and temperature.ndim else temperature
    scaled, place = logits / t, labels.clamp_min(0).unsqueeze(-1)
    others = scaled.masked_fill(torch.arange(logits.shape[-1], device=logits.device) == place, -torch.inf)
    # nothing but minus infinity has no softmax, and no gradient: stand in zeros, and take the results out again
    none = others.isneginf().all(-1, keepdim=True)
    others = others.masked_fill(none, 0.0)
    mass = others.logsumexp(-1, keepdim=True).masked_fill(none, -torch.inf)
    target = torch.cat([scaled.gather(-1, place), mass], -1)
    return F.log_softmax(target, -1), F.log_softmax(others, -1).masked_fill(none, -torch.inf)


def _weighted(weight: float | Tensor, value: Tensor) -> Tensor:
    # a weight of zero takes out a value that may be infinite, and 0 * inf is not a number
    if isinstance(weight, Tensor):
        return weight.to(value.dtype) * torch.where(weight == 0, 0.0, value)
    return weight * value if weight else torch.zeros_like(value)
