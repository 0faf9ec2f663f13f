"""Adversarial losses over the scores of a discriminator: logits, above 0 where it takes a feature for the teacher's.

Goodfellow et al. 2014 (arXiv:1406.2661), with the teacher's features in the place of real data. Neither is zero at a
match: two equal distributions leave the discriminator at one half. Scores are not detached here, since each player's
gradient runs through them; `limbeck.objective.parts.discriminator.adversarial_values` keeps the players apart.
"""

from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """``-log D(teacher) - log(1 - D(student))``, the sum of two binary cross-entropies, nats; [B] and [B] to [B].

    At D = 1/2, where it cannot tell the sides apart, ``2 log 2``; 0 only for a perfect discriminator.

    Raises:
        ValueError: the shapes differ.
    """
    if student_scores.shape != teacher_scores.shape:
        raise ValueError(
            "A discriminator scores as many features of both sides, "
            f"not {list(student_scores.shape)} of the student's and {list(teacher_scores.shape)} of the teacher's."
        )
    return F.softplus(-teacher_scores) + F.softplus(student_scores)


def generator_loss(student_scores: Tensor) -> Tensor:
    """``-log D(student)``, the form whose gradient does not vanish where the discriminator wins, nats; [B] to [B]."""
    return F.softplus(-student_scores)
