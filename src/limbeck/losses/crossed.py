"""Losses between models with different tokenizers: over sorted probabilities, over shared tokens, over chunks of text.

Computed in the dtype that is given; upcast half precision first. The teacher's side is detached. Which positions or tokens belong
together is `limbeck.data.alignment`'s matter.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses.divergences import FLOOR, Divergence, log_probabilities

_LEAST: Final = -80.0  # its exponential is still a normal number in float32, and so is the exponential of its negative


def uld(student_logits: Tensor, teacher_logits: Tensor, top: int | None = None) -> Tensor:
    """``sum |p_(i) - q_(i)|`` of probabilities sorted downwards, the shorter side padded with zeros; [..., V_s] and [..., V_t]
    to [...], between 0 and 2 (Universal Logit Distillation, Boizard et al. 2025, arXiv:2402.12030).

    It knows probabilities and not tokens: renaming tokens changes nothing, so it is 0 although every token is wrong, if the
    sorted values agree. Train with cross-entropy beside it. ``top``: sort no more than so many of the largest; the rest counts
    as the difference of the two remaining masses. That is exact where ``top`` is at least the smaller vocabulary. Otherwise it is
    a lower bound, too small by at most twice the smaller of the remaining masses. The slope jumps where sorted values agree, and
    is 0 there.
    """
    sizes = student_logits.shape[-1], teacher_logits.shape[-1]
    if top is not None and top < 1:
        raise ValueError(f"top is {top}: sort at least one probability")
    count = min(*sizes) if top is None else min(*sizes, top)
    q = student_logits.softmax(-1).topk(count, -1).values
    p = teacher_logits.detach().softmax(-1).topk(count, -1).values
    gap = q - p
    # both sides sum to 1, so the gap of what is left is that of the sums of what was sorted
    return gap.abs().sum(-1) + (gap.sum(-1).abs() if count < max(sizes) else 0.0)


def overlap(student_logits: Tensor, teacher_logits: Tensor, shared: Tensor, divergence: Divergence) -> Tensor:
    """A divergence over the tokens that both vocabularies have and one bucket a side for all others; [..., V_s] and [..., V_t] to
    [...], nats.

    Both sides are distributions over the same outcomes, so it is never negative, and 0 where they agree on every shared token. Of
    a divergence that reads `Offer.OUTCOMES` it is a lower bound of what it is over any finer outcomes. ``shared``: int64
    [V_s], the teacher's token for each of the student's, -1 = none, none twice (`limbeck.data.alignment.shared_tokens`).

    A side without other tokens has `FLOOR` in its bucket. If the other side has mass there, the forward and reverse KL are
    large, of which nothing can be learnt: take a bounded divergence.
    """
    if shared.shape != student_logits.shape[-1:]:
        raise ValueError(f"shared is {tuple(shared.shape)}, and the student has {student_logits.shape[-1]} logits")
    ours = (shared >= 0).nonzero().squeeze(-1)
    theirs = shared[ours]
    counted = torch.bincount(theirs, minlength=teacher_logits.shape[-1])
    if len(counted) > teacher_logits.shape[-1]:
        raise ValueError(
            f"shared names token {len(counted) - 1}, and the teacher has {teacher_logits.shape[-1]} logits"
        )
    if bool((counted > 1).any()):
        raise ValueError(f"shared names the teacher's token {int(counted.argmax())} more than once")
    log_q = _bucketed(student_logits, ours, (shared < 0).nonzero().squeeze(-1))
    log_p = _bucketed(teacher_logits.detach(), theirs, (counted == 0).nonzero().squeeze(-1))
    contributions, _ = divergence.parts(log_q, log_q.exp(), log_p, log_p.exp())
    return contributions.sum(-1)


def token_log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """How probable each token was, nats: [B, T] of logits [B, T, V] and ids int64 [B, T].

    It stands where the token stands: what position i - 1 says of token i is at i. Nothing predicts the first token: 0 there.
    """
    predicted = log_probabilities(logits[:, :-1]).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    return F.pad(predicted, (1, 0))


def chunk_log_likelihoods(log_probabilities: Tensor, chunks: Tensor, count: int) -> Tensor:
    """The log-likelihood of each chunk of text, the sum over its tokens: [B, C], 0 where a row has no such chunk.

    ``log_probabilities``: [B, T], of `token_log_probabilities`. ``chunks``: int64 [B, T], less than ``count``; -1 = in none.
    ``count``: C, for both sides the same.
    """
    summed = log_probabilities.new_zeros(len(chunks), count + 1)  # the last takes what is in none
    return summed.scatter_add(1, chunks.where(chunks >= 0, count), log_probabilities)[:, :count]


def chunk_mask(student_chunks: Tensor, teacher_chunks: Tensor, count: int) -> Tensor:
    """Which of ``count`` chunks a row has and both models predict in full: bool [B, C].

    Nothing predicts the first token of a row, so a chunk that has it on either side does not count; a token of beginning before
    the text saves it. Padding is on the right.
    """
    numbers = torch.arange(count, device=student_chunks.device)
    present = numbers < student_chunks.amax(1, keepdim=True) + 1
    return present & (student_chunks[:, :1] != numbers) & (teacher_chunks[:, :1] != numbers)


def alm(student_log_likelihoods: Tensor, teacher_log_likelihoods: Tensor, temperature: float = 100.0) -> Tensor:
    """``KL(B(e^(P/t)) || B(e^(Q/t)))`` of two coins: whether a chunk is said or not; [...] to [...], nats (approximate
    likelihood matching, Minixhofer, Vulić & Ponti 2025, arXiv:2503.20083).

    P, the teacher's, and Q, the student's log-likelihood of the chunk are at most 0. The paper's cross-entropy less the teacher's
    entropy: 0 with a zero gradient where P = Q, never negative. There is no factor t: times t it tends to `binary_kl_limit`. Both
    sides are moved from 0 by the machine epsilon, so that a student that is sure has a finite loss and still a gradient.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}: it must be above 0")
    ours, theirs = _below(student_log_likelihoods), _below(teacher_log_likelihoods.detach())
    a, b = (theirs / temperature).clamp_min(_LEAST), ours / temperature
    # With u = 1 - p and v = 1 - q, u - v = p (e^(b - a) - 1): no difference of nearly equal logarithms is left, and both
    # summands are at least 0.
    p, v, apart = a.exp(), -torch.expm1(b), b - a
    moved = torch.expm1(apart)
    return p * (moved - apart) + v * _excess(p * moved / v)


def binary_kl_limit(student_log_likelihoods: Tensor, teacher_log_likelihoods: Tensor) -> Tensor:
    """``|Q| - |P| + |P| log(|P| / |Q|)``: what ``t * alm`` tends to for a large temperature t; [...] to [...], nats."""
    ours, theirs = -_below(student_log_likelihoods), -_below(teacher_log_likelihoods.detach())
    return ours * _excess((theirs - ours) / ours)


def _bucketed(logits: Tensor, kept: Tensor, others: Tensor) -> Tensor:
    """Log-probabilities of the classes ``kept`` and of all ``others`` together, at least `FLOOR`: [..., K + 1]."""
    every = log_probabilities(logits)
    rest = every.index_select(-1, others).logsumexp(-1, keepdim=True).clamp_min(FLOOR)
    return torch.cat([every.index_select(-1, kept), rest], -1)


def _below(log_likelihoods: Tensor) -> Tensor:
    return log_likelihoods.clamp_max(0.0) - torch.finfo(log_likelihoods.dtype).eps


def _excess(r: Tensor) -> Tensor:
    """``(1 + r) log(1 + r) - r``, at least 0, for r of at least -1."""
    r = r.clamp_min(torch.finfo(r.dtype).eps - 1)
    return (1 + r) * torch.log1p(r) - r
