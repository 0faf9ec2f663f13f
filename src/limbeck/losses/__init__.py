"""How far apart two signals are: pure functions, ``(student, teacher, ...)`` in that order, one value an example."""

from limbeck.losses.features import hint
from limbeck.losses.responses import (
    cross_entropy,
    forward_kl,
    kl_divergence,
    logit_mse,
    probability_mse,
    soft_cross_entropy,
)

__all__ = [
    "cross_entropy",
    "forward_kl",
    "hint",
    "kl_divergence",
    "logit_mse",
    "probability_mse",
    "soft_cross_entropy",
]
