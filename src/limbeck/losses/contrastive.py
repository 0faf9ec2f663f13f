"""Contrastive losses: an example's student embedding is to be nearest to the teacher's embedding of the same example."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def unit(value: Tensor) -> Tensor:
    """Vectors of length 1 along the last dimension; one of all zeros (to some 1e-28) stays as it is, gradient 1."""
    # the direction does not depend on a constant factor, and after this one no square overflows or vanishes
    largest = value.detach().abs().amax(-1, keepdim=True)
    value = value / torch.where(largest > torch.finfo(value.dtype).eps ** 4, largest, 1.0)
    squares = value.square().sum(-1, keepdim=True)  # at least 1 now, but for zeros
    return value / torch.where(squares < 1, 1.0, squares).sqrt()


def contrastive(
    student: Tensor,
    teacher: Tensor,
    temperature: float | Tensor = 0.07,
    labels: Tensor | None = None,
    symmetric: bool = False,
    detach_teacher: bool = True,
) -> Tensor:
    """In-batch InfoNCE, nats, one value an anchor: [B, d] and [B, d] to [B]. Exists over a batch only.

    ``-log softmax(cos / temperature)`` at the same row: the student's rows are anchors, the teacher's are keys. Never
    negative, and not zero at a match (other rows still resemble the anchor); a batch of 1 has no negatives and is 0.
    No embedding's length matters. van den Oord et al. 2018, arXiv:1807.03748, with cosines as the critic.

    Args:
        student: the student's embeddings, of the teacher's width.
        teacher: the teacher's embeddings.
        temperature: what cosines are divided by.
        labels: int64 [B]; other rows of an anchor's class are no negatives. Negative labels are of no class.
        symmetric: the mean with the other direction, the teacher's rows as anchors.
        detach_teacher: False where an embedding of the teacher's feature is trained as well.

    Raises:
        ValueError: the shapes do not fit.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            "Contrastive losses compare embeddings of one shape [batch, width], "
            f"not the student's {list(student.shape)} with the teacher's {list(teacher.shape)}."
        )
    teacher = teacher.detach() if detach_teacher else teacher
    scores = unit(student) @ unit(teacher).T / temperature
    if labels is not None:
        if labels.shape != student.shape[:1]:
            raise ValueError(f"Labels {list(labels.shape)} must be one a row of embeddings {list(student.shape)}.")
        same = (labels[:, None] == labels) & (labels >= 0)
        scores = scores.masked_fill(same.fill_diagonal_(False), -torch.inf)
    value = scores.logsumexp(1) - scores.diagonal()
    return (value + scores.logsumexp(0) - scores.diagonal()) / 2 if symmetric else value


def crd(
    anchor: Tensor,
    positive: Tensor,
    negatives: Tensor,
    constant: float | Tensor,
    rows: int,
    temperature: float = 0.07,
) -> Tensor:
    """One direction of contrastive representation distillation, nats, one value an anchor [B].

    ``-log h(positive) - sum over K negatives of log(1 - h)``, ``h = s / (s + K / rows)`` and
    ``s = exp(cos / temperature) / constant``: is this pair of one example, or drawn at random? Never negative and not
    zero at a match; scores of ``1 / rows`` give ``log(K + 1) + K log(1 + 1 / K)``. The sum over negatives is not
    divided by K. Tian, Krishnan & Isola 2020, arXiv:1910.10699, whose formula has a constant of 1; another one is the
    partition function of Wu et al. 2018 (arXiv:1805.01978). Without negatives the value is 0.

    Args:
        anchor: unit vectors [B, d] of one side.
        positive: the other side's unit vectors for the same examples, [B, d]. Nothing but ``negatives`` is detached, as
            the embeddings of both sides are trained.
        negatives: the other side's unit vectors for other examples, [B, K, d].
        constant: Z, a number above 0.
        rows: how many examples there are, N: 1 / N is the noise distribution.
        temperature: what cosines are divided by.

    Raises:
        ValueError: the shapes do not fit.
    """
    if anchor.ndim != 2 or anchor.shape != positive.shape:
        raise ValueError(
            "Anchors and positives must have one shape [batch, width], "
            f"not {list(anchor.shape)} and {list(positive.shape)}."
        )
    if negatives.ndim != 3 or negatives.shape[::2] != anchor.shape:
        raise ValueError(
            "Negatives must be [batch, count, width] for anchors [batch, width], "
            f"not {list(negatives.shape)} for {list(anchor.shape)}."
        )
    count = negatives.shape[1]
    near = (anchor * positive).sum(1) / temperature
    if count == 0:
        return near * 0.0
    far = torch.einsum("bd,bkd->bk", anchor, negatives.detach()) / temperature
    # h is the sigmoid of log(s N / K), in which no exponential is ever taken by itself
    log_constant = constant.detach().log() if isinstance(constant, Tensor) else math.log(constant)
    offset = log_constant + math.log(count / rows)
    return F.softplus(offset - near) + F.softplus(far - offset).sum(1)
