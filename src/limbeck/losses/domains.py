"""How far apart what a model makes of two domains is."""

from torch import Tensor
from torch.nn import functional as F


def coral(first: Tensor, second: Tensor) -> Tensor:
    """Squared distance of covariances, by four times the square of the width: [n, d] and [m, d] to [].

    Deep CORAL (Sun & Saenko 2016, arXiv:1607.01719): ``||C_1 - C_2||_F^2 / (4 d^2)``, covariances with n - 1. Symmetric, blind to
    the means, zero for two sets of equal covariance. The gradient reaches both sides.

    Raises:
        ValueError: the widths differ, or a side has fewer than two rows.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"two sets of vectors of one width are compared, not {list(first.shape)} and {list(second.shape)}"
        )
    if min(len(first), len(second)) < 2:
        raise ValueError("a covariance needs two rows at least")
    return (_covariance(first) - _covariance(second)).square().sum() / (4 * first.shape[1] ** 2)


def domain_cross_entropy(scores: Tensor, later: Tensor) -> Tensor:
    """What a discriminator of two domains pays, nats: scores [B], above 0 for the later domain, and bool [B], to [B].

    Domain-adversarial training (Ganin et al. 2016, arXiv:1505.07818). ``log 2`` where it cannot tell them apart. Nothing is
    reversed here: see `limbeck.objective.temperatures.reversed_gradient`.
    """
    return F.binary_cross_entropy_with_logits(scores, later.to(scores.dtype), reduction="none")


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.mT @ centred / (len(x) - 1)
