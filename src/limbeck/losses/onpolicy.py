"""Objectives over texts that the student writes: rewards, returns, policy gradients, and DistiLLM-2's pair.

Log-probabilities are those of the tokens that stand there, nats, [B, T]: q of the student, p of the teacher, both at the
temperature that was sampled at, from the whole vocabulary (top-k and top-p bias every estimate here). ``mask``: bool [B, T],
the tokens that were written, see `until_end`; values are 0 elsewhere, whatever stands there. Upcast half precision first.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from limbeck.losses.divergences import FLOOR
from limbeck.losses.sequences import skew_kl, skew_reverse_kl

_STEEPEST = 20.0  # the logarithm of an importance ratio: beyond it the ratio says nothing, and may overflow
Logits = tuple[Tensor, Tensor]


def until_end(ids: Tensor, end_tokens: Sequence[int], written: Tensor | None = None) -> Tensor:
    """The tokens up to the first of ``end_tokens`` and with it: bool [B, T] of ids int [B, T].

    ``written``: bool [B, T], what was generated, if the ids have a prompt or padding before it: an end token there ends nothing.
    """
    among = torch.ones_like(ids, dtype=torch.bool) if written is None else written
    ends = among & torch.isin(ids, torch.tensor(end_tokens, dtype=ids.dtype, device=ids.device))
    return among & (ends.cumsum(-1) - ends.long() == 0)


def minillm_returns(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    mask: Tensor,
    gamma: float = 0.95,
    *,
    length_normalised: bool = True,
    single_step: bool = False,
    clip: float = 100.0,
) -> Tensor:
    """Returns ``R_t = sum over u >= t of gamma^(u - t) r_u`` of rewards ``r = log p - log q``, [B, T], without gradient.

    MiniLLM (Gu et al. 2024, arXiv:2306.08543). They are 0 where both models agree; do not whiten them, which would undo that.
    ``length_normalised``: divided by how many rewards are summed. ``single_step``: a token's own reward is left out, as its
    exact expectation, `reverse_kl` of the logits there, is added to the loss instead; that is the paper's decomposition,
    whose released code adds it and keeps the reward. ``clip``: of a single reward. ``gamma``: 1 in the paper.
    """
    rewards = _rewards(student_log_probs, teacher_log_probs, mask).clamp(-clip, clip)
    returns = _discounted(rewards, mask, gamma)
    left = _discounted(mask.to(rewards.dtype), mask, 1.0)
    if single_step:
        returns, left = returns - rewards, left - 1
    if length_normalised:
        returns = returns / left.clamp_min(1)
    return torch.where(mask, returns, 0.0)


def mixed_log_probs(student_log_probs: Tensor, teacher_log_probs: Tensor, share: float = 0.2) -> Tensor:
    """``log(share p + (1 - share) q)``, [B, T]: of tokens that a mixture of both models wrote (MiniLLM), without gradient.

    Raises:
        ValueError: ``share``, the teacher's, is not from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is {share}, not from 0 to below 1")
    q, p = student_log_probs.detach(), teacher_log_probs.detach()
    return torch.logaddexp(q + math.log1p(-share), p + math.log(share)) if share else q


def policy_gradient_loss(
    student_log_probs: Tensor,
    sampler_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float | None = 0.2,
) -> Tensor:
    """``-min(w A, clip(w, 1 - clip, 1 + clip) A)``, ``w = q / sampler``, [B, T] (PPO, Schulman et al. 2017, arXiv:1707.06347).

    ``sampler_log_probs``: of whatever wrote the tokens: the student then, or `mixed_log_probs` of it, which weighs the
    teacher-mixed sampling of MiniLLM. A token is weighed by its own ratio and by no other's, as there, so that the gradient
    is exact only for texts of one token, or by the student as it is. ``advantages``: [B, T], constants, such as
    `minillm_returns`. ``clip``: None for ``-w A``. The value is 0 where the advantages are, and says little else.
    """
    ours, theirs = (_kept(one, mask) for one in (student_log_probs, sampler_log_probs.detach()))
    ratio = (ours - theirs).clamp(max=_STEEPEST).exp()
    gain = torch.where(mask, advantages.detach(), 0.0)
    if clip is None:
        return -ratio * gain
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


def sampled_reverse_kl(
    student_log_probs: Tensor, teacher_log_probs: Tensor, mask: Tensor, gamma: float = 0.0
) -> Tensor:
    """The reverse KL from the one token that the student wrote: values ``log q - log p``, [B, T], negative now and then.

    Over texts of the student, the expected sum over tokens is the reverse KL of texts, and its expected gradient is that KL's
    if ``gamma`` is 1. If it is 0, a token answers for itself alone: the gradient is that of `reverse_kl` at each position, as
    if the student had not chosen the tokens before; less variance, and blind to what a token leads to. Needs only the
    teacher's log-probability of the token, as a served model gives it. It is no loss over texts of anybody else; where the
    student has changed since, use `policy_gradient_loss` of `minillm_returns`.
    """
    rewards = _rewards(student_log_probs, teacher_log_probs, mask)
    costs = -_discounted(rewards, mask, gamma)
    ours = _kept(student_log_probs, mask)
    return costs * (ours - ours.detach()) - rewards  # the value of the one, the gradient of the other


def confidence_gap(ahead_log_probs: Tensor, behind_log_probs: Tensor, mask: Tensor) -> Tensor:
    """``exp(mean log)`` of one side minus that of the other, [B], in [-1, 1], without gradient; 0 without tokens.

    What `distillm2_alpha` goes by. ``ahead``: who wrote the text, the teacher of a teacher's text and the student of its own.
    """
    count = mask.sum(-1).clamp_min(1)
    ahead, behind = ((_kept(one.detach(), mask).sum(-1) / count).exp() for one in (ahead_log_probs, behind_log_probs))
    return ahead - behind


def distillm2_alpha(gap: Tensor, first_gap: float, base: float = 0.1, least: float = 0.01) -> Tensor:
    """``1 - (1 - base) first_gap / gap``, from ``least`` to ``base``: the skew of each text, [B], from its `confidence_gap` [B].

    DistiLLM-2 (Ko et al. 2025). ``first_gap``: the mean gap when the training began. The wider the gap, the harder the text and
    the larger the skew; no gap gives ``least``. The released code jumps to ``base`` where a gap is negative; here it does not.
    Where the first gap is not above 0 there is nothing to go by, and all is ``base``.

    Raises:
        ValueError: not ``0 <= least <= base < 1``.
    """
    if not 0 <= least <= base < 1:
        raise ValueError(f"least is {least} and base {base}: needs 0 <= least <= base < 1")
    # 1e-5 is the released code's, against a gap of 0
    return (1 - (1 - base) * first_gap / (gap.clamp_min(0) + 1e-5)).clamp(least, base)


def distillm2(teacher_text: Logits, student_text: Logits, alphas: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """`skew_kl` on what the teacher wrote, [B, T], and `skew_reverse_kl` on what the student wrote, [B', T'].

    DistiLLM-2 (Ko et al. 2025), whose loss is the sum of both means. Of each text the logits of student and teacher
    [B, T, V], and alphas [B], constants, see `distillm2_alpha`. The released code treats the student within the second
    mixture as a constant; here the gradient is that of the value.
    """
    return _skewed(skew_kl, teacher_text, alphas[0]), _skewed(skew_reverse_kl, student_text, alphas[1])


def _skewed(divergence: Callable[[Tensor, Tensor, float], Tensor], text: Logits, alpha: Tensor) -> Tensor:
    student, teacher = text
    if not len(student):
        return student.sum(-1)
    return torch.stack([divergence(*one) for one in zip(student, teacher, alpha.tolist(), strict=True)])


def _kept(log_probs: Tensor, mask: Tensor) -> Tensor:
    """What does not count may be NaN or infinite, and 0 times that is not 0."""
    return torch.where(mask, log_probs, 0.0).clamp_min(FLOOR)


def _rewards(student_log_probs: Tensor, teacher_log_probs: Tensor, mask: Tensor) -> Tensor:
    if not student_log_probs.shape == teacher_log_probs.shape == mask.shape or mask.ndim != 2:
        raise ValueError(
            f"Needs three times one shape [B, T], not {list(student_log_probs.shape)}, "
            f"{list(teacher_log_probs.shape)} and {list(mask.shape)}."
        )
    return _kept(teacher_log_probs.detach(), mask) - _kept(student_log_probs.detach(), mask)


def _discounted(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """``R_t = r_t + gamma R_(t + 1)`` over the tokens that count; nothing is discounted for the others."""
    if not rewards.shape[1]:
        return rewards
    running, returns = torch.zeros_like(rewards[:, 0]), []
    for reward, counts in zip(reversed(rewards.unbind(1)), reversed(mask.unbind(1)), strict=True):
        running = torch.where(counts, reward + gamma * running, running)
        returns.append(running)
    return torch.where(mask, torch.stack(returns[::-1], 1), 0.0)
