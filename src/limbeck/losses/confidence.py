"""A student that knows better than its teacher: its own answers beside the teacher's (weak-to-strong generalisation)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses.responses import cross_entropy, soft_cross_entropy


def confidence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    alpha: float,
    temperature: float = 1.0,
    keep_prior: bool = True,
) -> Tensor:
    """``(1 - alpha)`` times the soft cross-entropy with the teacher, ``alpha`` times that with the student's own hard answers,
    nats; [B, C] to []. Mean over the batch.

    The hard answers are constants; see `hardened`. With ``keep_prior`` the batch has as many of each as the teacher expects,
    the mean of its probabilities; without, each is the student's likeliest. Zero only where both are certain and agree. Burns et
    al. 2023, arXiv:2312.09390; the paper's tasks have two classes. ``temperature``: of the teacher's part, with the factor T^2.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            f"Student and teacher must have logits of one shape [B, C], not {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}."
        )
    if student_logits.numel() == 0:
        return student_logits.sum()
    taught = soft_cross_entropy(student_logits, teacher_logits, temperature).mean()
    if alpha == 0:
        return taught
    expected = F.softmax(teacher_logits.detach(), -1).mean(0) if keep_prior else None
    own = cross_entropy(student_logits, hardened(student_logits.detach(), expected)).mean()
    return (1 - alpha) * taught + alpha * own


def hardened(logits: Tensor, prior: Tensor | None = None) -> Tensor:
    """A class for each row, [B, C] to int64 [B], of which the batch has as many as ``prior`` [C] says; None: the likeliest.

    Each class has a threshold, and a row the likeliest class whose threshold its probability reaches; the thresholds are those
    under which just B times its prior choose each class, rounded by largest remainders. With two classes that is one threshold,
    a quantile of the student's probabilities, as in the paper. They are found as stable matchings are (Gale & Shapley 1962): rows
    ask, a class keeps the surest. Of equal probabilities the earlier row comes first.
    """
    if prior is None:
        return logits.argmax(-1)
    places = apportioned(prior, len(logits))
    least = torch.finfo(logits.dtype).min
    wishes = F.log_softmax(logits, -1).nan_to_num(nan=least, neginf=least)
    while True:
        asked, chosen = wishes.max(-1)
        refused = _rank(asked, chosen, len(places)) >= places[chosen]
        if not bool(refused.any()):
            return chosen
        wishes[refused, chosen[refused]] = -torch.inf


def apportioned(prior: Tensor, count: int) -> Tensor:
    """``count`` places divided by the shares ``prior`` [C], int64 [C]: rounded down, the rest to the largest remainders."""
    shares = (prior.double() / prior.double().sum() * count).round(decimals=9)
    places = shares.floor()
    left = count - int(places.sum())
    places[(shares - places).argsort(descending=True, stable=True)[:left]] += 1
    return places.long()


def _rank(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """The place of each value [B] among those of its group, the largest first, from 0."""
    order = values.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    counts = torch.bincount(group, minlength=groups)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[group[order]]
    return rank
