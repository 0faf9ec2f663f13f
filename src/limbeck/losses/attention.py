"""Losses between attention maps, and between the relations of queries, keys or values inside a layer.

All of them give one value an example, [B]. ``mask`` is boolean [B, L], True at real tokens: padding counts neither as
a query nor as a key, and an example without a real token is zero. The teacher's side is detached.
"""

import math

import torch
from torch import Tensor

from limbeck.losses.responses import elementwise_kl


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of attention scores (or probabilities), [B, h, L, L] to [B]. Zero at a match only.

    TinyBERT (Jiao et al. 2020, arXiv:1909.10351), with the mean over what counts: the paper's code zeroes masked
    scores and averages over the padding too. An entry that either side masks (minus infinity, or the dtype's lowest
    values, which stand for it) is left out. Scores that differ by a constant differ here, though their softmax agrees.

    Args:
        student: scores before the softmax; both are averaged over heads first where the numbers of heads differ.
        teacher: the teacher's scores, detached here.
        mask: boolean [B, L], the real tokens.
    """
    student, teacher, counted = _aligned(student, teacher, mask)
    counted = counted & _open(student) & _open(teacher)
    gap = torch.where(counted, student - teacher, 0.0)  # before the square, whose gradient would be 0 * nan
    return gap.square().flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1)


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """``KL(teacher || student)`` of attention rows, nats, mean over queries and heads; [B, h, L, L] to [B].

    The attention transfer of MiniLM (Wang et al. 2020, arXiv:2002.10957). Both sides are probabilities and are
    normalised anew over the real keys; zero when the rows agree up to a factor. A student's probability below the
    dtype's smallest normal number counts as that number, so the value is finite (and pulls at no such entry). A query
    whose teacher has no real key is left out.

    Args:
        student: probabilities; both are averaged over heads first where the numbers of heads differ.
        teacher: the teacher's probabilities, detached here.
        mask: boolean [B, L], the real tokens.
    """
    student, teacher, counted = _aligned(student, teacher, mask)
    student, teacher = torch.where(counted, student, 0.0), torch.where(counted, teacher, 0.0)
    log_q, log_p = _log_rows(student, counted), _log_rows(teacher, counted)
    # minus infinity, which `elementwise_kl` knows as p = 0: the clamp has left its log finite
    value = elementwise_kl(log_q, log_p.masked_fill(teacher <= 0, -torch.inf)).sum(-1)
    asked = teacher.sum(-1) > 0
    return value.flatten(1).sum(1) / asked.flatten(1).sum(1).clamp_min(1)


def minilm_relation(student: Tensor, teacher: Tensor, heads: int = 12, mask: Tensor | None = None) -> Tensor:
    """Relations among the tokens of one layer, mean over relation heads and queries; [B, L, d] to [B], in nats.

    MiniLMv2 (Wang et al. 2021, arXiv:2012.15828): in each of ``heads`` equal slices X of the concatenated queries,
    keys or values, ``KL(teacher || student)`` of ``softmax(X X^T / sqrt(d / heads))`` over the real keys. Zero at a
    match, and where one rotation of each slice makes a match; widths and head counts of the models may differ.

    Args:
        student: queries, keys or values, heads concatenated; ``heads`` must divide its width.
        teacher: the teacher's, detached here; its own width, the same tokens.
        heads: the number of relation heads.
        mask: boolean [B, L], the real tokens.

    Raises:
        ValueError: the tokens do not match, or ``heads`` does not divide a width.
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"Relations need [B, L, d] of the same tokens: the student is {list(student.shape)}, "
            f"the teacher {list(teacher.shape)}."
        )
    mask = _real(mask, student)
    log_q, log_p = _log_relations(student, heads, mask), _log_relations(teacher.detach(), heads, mask)
    value = torch.where(mask.unsqueeze(1), elementwise_kl(log_q, log_p).sum(-1), 0.0)
    return value.flatten(1).sum(1) / (heads * mask.sum(1)).clamp_min(1)


def _log_relations(x: Tensor, heads: int, mask: Tensor) -> Tensor:
    width = x.shape[-1]
    if heads < 1 or width < 1 or width % heads:
        raise ValueError(f"A width of {width} does not split into {heads} relation heads: name a divisor of {width}.")
    x = torch.where(mask.unsqueeze(-1), x, 0.0)
    parts = x.reshape(*x.shape[:2], heads, width // heads).transpose(1, 2)
    scores: Tensor = parts @ parts.transpose(-1, -2) / math.sqrt(width // heads)
    # the lowest finite number: a row without any real key would be nan under minus infinity
    return scores.masked_fill(~mask[:, None, None, :], torch.finfo(x.dtype).min).log_softmax(-1)


def _aligned(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides with the same heads, the teacher detached, and which entries lie between real tokens."""
    a, b = student.shape, teacher.shape
    if len(a) != 4 or len(b) != 4 or a[0] != b[0] or a[2:] != b[2:] or a[2] != a[3] or 0 in (a[1], b[1]):
        raise ValueError(
            "Attention maps need [B, heads, L, L] of the same batch and tokens: "
            f"the student is {list(a)}, the teacher {list(b)}."
        )
    teacher = teacher.detach()
    if a[1] != b[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    mask = _real(mask, student[:, 0])
    return student, teacher, mask[:, None, :, None] & mask[:, None, None, :]


def _real(mask: Tensor | None, tokens: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if mask.shape != tokens.shape[:2]:
        raise ValueError(f"The mask is {list(mask.shape)}, but the batch has [B, L] = {list(tokens.shape[:2])}.")
    return mask


def _open(scores: Tensor) -> Tensor:
    return ~(scores < torch.finfo(scores.dtype).min / 2)  # so put, a nan is not left out in silence


def _log_rows(probabilities: Tensor, counted: Tensor) -> Tensor:
    """Logs of rows normalised anew; a difference of logs: a quotient of tiny numbers has a gradient that overflows."""
    tiny = torch.finfo(probabilities.dtype).tiny
    raised = probabilities.clamp_min(tiny)
    # the sum holds what was raised too, so that every row is a distribution and the divergence is never negative
    total = torch.where(counted, raised, 0.0).sum(-1, keepdim=True).clamp_min(tiny)
    return raised.log() - total.log()
