"""How far apart two signals are: pure functions, ``(student, teacher, ...)`` in that order, one value an example.

A loss that only exists over a batch gives a scalar.
"""

from limbeck.losses.adversarial import discriminator_loss, generator_loss
from limbeck.losses.attention import attention_kl, attention_mse, minilm_relation
from limbeck.losses.confidence import confidence, hardened
from limbeck.losses.contrastive import contrastive, crd
from limbeck.losses.correlation import dist, standardize_logits
from limbeck.losses.crossed import (
    alm,
    binary_kl_limit,
    chunk_log_likelihoods,
    chunk_mask,
    overlap,
    token_log_probabilities,
    uld,
)
from limbeck.losses.decoupled import dkd, label_smoothing, nkd, wsld
from limbeck.losses.domains import coral, domain_cross_entropy
from limbeck.losses.features import cosine, gradient_penalty, hint, jacobian, simkd, squared_euclidean, vid
from limbeck.losses.grams import fsp, gram, nst
from limbeck.losses.maps import attention_map, channel_wise, mgd, negative_mean, ofd, review
from limbeck.losses.relations import (
    correlation_congruence,
    pkt,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from limbeck.losses.responses import (
    cross_entropy,
    entropy,
    kl_divergence,
    logit_mse,
    probability_mse,
    soft_cross_entropy,
)
from limbeck.losses.routing import evenness, mixture
from limbeck.losses.sequences import (
    adaptive_kl,
    alpha_beta,
    continuous_jensen_shannon,
    forward_kl,
    jensen_shannon,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    total_variation,
)
from limbeck.losses.vectors import margin_mse

__all__ = [
    "adaptive_kl",
    "alm",
    "alpha_beta",
    "attention_kl",
    "attention_map",
    "attention_mse",
    "binary_kl_limit",
    "channel_wise",
    "chunk_log_likelihoods",
    "chunk_mask",
    "confidence",
    "continuous_jensen_shannon",
    "contrastive",
    "coral",
    "correlation_congruence",
    "cosine",
    "crd",
    "cross_entropy",
    "discriminator_loss",
    "dist",
    "dkd",
    "domain_cross_entropy",
    "entropy",
    "evenness",
    "forward_kl",
    "fsp",
    "generator_loss",
    "gradient_penalty",
    "gram",
    "hardened",
    "hint",
    "jacobian",
    "jensen_shannon",
    "kl_divergence",
    "label_smoothing",
    "logit_mse",
    "margin_mse",
    "mgd",
    "minilm_relation",
    "mixture",
    "negative_mean",
    "nkd",
    "nst",
    "ofd",
    "overlap",
    "pkt",
    "probability_mse",
    "reverse_kl",
    "review",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
    "simkd",
    "skew_kl",
    "skew_reverse_kl",
    "soft_cross_entropy",
    "squared_euclidean",
    "standardize_logits",
    "token_log_probabilities",
    "total_variation",
    "uld",
    "vid",
    "wsld",
]
