"""Divergences between next-token distributions: logits [B, T, V] of both sides to values [B, T], in nats.

Zero, with a zero gradient, where both distributions are equal; never negative. They are computed in the dtype that they are
given: upcast half precision first, which loses the small probabilities of many tokens. The definitions, which large
vocabularies are evaluated by too, are in `limbeck.losses.divergences`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses import divergences as d

NO_LABEL = -100


def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """``KL(teacher || student)``: covers all that the teacher does. `kl_divergence` at temperature 1."""
    return d.dense(d.ForwardKl(), student_logits, teacher_logits)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """``KL(student || teacher)``: seeks one of the teacher's modes (MiniLLM, Gu et al. 2024, arXiv:2306.08543)."""
    return d.dense(d.ReverseKl(), student_logits, teacher_logits)


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor, beta: float = 0.5) -> Tensor:
    """``beta KL(p || m) + (1 - beta) KL(q || m)``, ``m = beta p + (1 - beta) q`` (GKD, Agarwal et al. 2024, arXiv:2306.13649).

    At most log 2 at beta = 0.5. It vanishes as beta tends to 0 or 1, where only ``value / beta`` and ``value / (1 - beta)``
    tend to the forward and the reverse KL; so 0 and 1 are a ValueError.
    """
    return d.dense(d.JensenShannon(beta), student_logits, teacher_logits)


def continuous_jensen_shannon(student_logits: Tensor, teacher_logits: Tensor, beta: float = 0.5) -> Tensor:
    """``(1 - beta) KL(p || m) + beta KL(q || m)``, ``m = beta p + (1 - beta) q``: forward KL at beta = 0, reverse KL at 1, and
    continuous between.
    """
    return d.dense(d.ContinuousJensenShannon(beta), student_logits, teacher_logits)


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, alpha: float = 0.1) -> Tensor:
    """``KL(p || alpha p + (1 - alpha) q)``, at most ``-log alpha`` (DistiLLM, Ko et al. 2024, arXiv:2402.03898)."""
    return d.dense(d.SkewKl(alpha), student_logits, teacher_logits)


def skew_reverse_kl(student_logits: Tensor, teacher_logits: Tensor, alpha: float = 0.1) -> Tensor:
    """``KL(q || (1 - alpha) p + alpha q)``, at most ``-log alpha`` (DistiLLM, Ko et al. 2024, arXiv:2402.03898)."""
    return d.dense(d.SkewReverseKl(alpha), student_logits, teacher_logits)


def total_variation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """``1/2 sum |p - q|``, at most 1: 1 less the share that speculative decoding accepts (DistillSpec, Zhou et al. 2024)."""
    return d.dense(d.TotalVariation(), student_logits, teacher_logits)


def adaptive_kl(student_logits: Tensor, teacher_logits: Tensor, mass: float = 0.5) -> Tensor:
    """Forward and reverse KL, weighted by where they differ: at the teacher's likeliest tokens, which hold ``mass``, or in the
    rest (AKL, Wu et al. 2025, arXiv:2404.02657). The weights are constants to the gradient.
    """
    return d.dense(d.AdaptiveKl(mass), student_logits, teacher_logits)


def alpha_beta(student_logits: Tensor, teacher_logits: Tensor, alpha: float = 0.2, beta: float = 0.7) -> Tensor:
    """The alpha-beta divergence (ABKD, Wang et al. 2025): (1, 0) is the forward KL, (0, 1) the reverse.

    Raises:
        ValueError: one of them is negative, or both are 0.
    """
    return d.dense(d.AlphaBeta(alpha, beta), student_logits, teacher_logits)


def next_tokens(ids: Tensor, counts: Tensor) -> Tensor:
    """What each position is to predict, int64 [B, T]: the token after it, ``NO_LABEL`` where there is none or it does not count.

    ``ids``: int64 [B, T]. ``counts``: bool [B, T], the tokens that are to be predicted; padding and prompts are not, nor is
    a text's first token where padding stands before it.
    """
    return F.pad(torch.where(counts, ids, NO_LABEL), (0, 1), value=NO_LABEL)[:, 1:]
