"""Shares of several teachers: their mixture, and how even they are."""

from math import log

import torch
from torch import Tensor


def mixture(log_shares: Tensor, logits: Tensor) -> Tensor:
    """Log-probabilities [B, C] of ``sum_k g_k p_k``, of log g [B, K], each row's shares sum to 1, and logits [B, K, C] at T = 1.

    A mixture of experts (Jacobs et al. 1991).
    """
    return torch.logsumexp(log_shares.unsqueeze(-1) + torch.log_softmax(logits, -1), 1)


def evenness(log_shares: Tensor) -> Tensor:
    """``log K - H(g)`` of log g [B, K], nats [B]: 0 where all shares are equal, log K where one has everything."""
    return log(log_shares.shape[-1]) + (log_shares.exp() * log_shares).sum(-1)
