"""Losses between the vectors of pairs of texts, [B, 2, d]: the first text of each, and the second, which belongs to it."""

import torch
from torch import Tensor

from limbeck.losses.contrastive import unit


def margin_mse(student: Tensor, teacher: Tensor, cosine: bool = True) -> Tensor:
    """Squared difference of score margins; [B, 2, d] and [B, 2, e] to [B], one value a first text. Exists over a batch only.

    A text's margin against another second text is the score of its own partner less that of the other; the value is the mean
    over the B - 1 others of the batch. Zero where both sides score alike, or differ by a constant for each first text.
    Margin-MSE (Hofstätter et al. 2020, arXiv:2010.02666), whose negatives are mined and not those of the batch. A batch of 1
    has no margins and is 0.

    Args:
        student: the student's vectors.
        teacher: the teacher's, of any width.
        cosine: scores are cosines, in [-1, 1]; else dot products, in the square of the vectors' units, without bounds.

    Raises:
        ValueError: the shapes do not fit.
    """
    if student.ndim != 3 or student.shape[1] != 2 or teacher.shape[:-1] != student.shape[:-1]:
        raise ValueError(
            "Margins are of pairs of vectors [batch, 2, width], not the student's "
            f"{list(student.shape)} and the teacher's {list(teacher.shape)}."
        )
    apart = _margins(student, cosine) - _margins(teacher.detach(), cosine)
    return apart.square().sum(1) / max(1, len(student) - 1)  # a text has no margin against its own partner: that is 0


def _margins(vectors: Tensor, cosine: bool) -> Tensor:
    first, second = (unit(vectors) if cosine else vectors).unbind(1)
    scores: Tensor = first @ second.T
    return torch.diagonal(scores)[:, None] - scores
