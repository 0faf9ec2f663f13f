"""How far apart two distributions are: each divergence once, elementwise on log-probabilities.

A divergence is a sum over outcomes of ``f(log q, log p)``, q the student's and p the teacher's probability. `parts` gives the
contributions f and their slopes ``df / d log q``; through a softmax, ``dD / dz = slope - q * sum(slopes)``. Dense, chunked,
sparse and sampled evaluation walk this definition and no other. Log-probabilities are finite: what cannot be has `FLOOR`.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Final, Protocol

import torch
from torch import Tensor

from limbeck.losses.kernels import jensen_shannon
from limbeck.losses.offer import Offer

FLOOR: Final = -1e4
"""In place of a log-probability of minus infinity: its exponential is 0, and 0 times it is 0 and not NaN."""
Parts = tuple[Tensor, Tensor]


class Divergence(Protocol):
    """``reads``: how much of the teacher's distribution it needs. Over some outcomes and a tail an f-divergence is at most what
    it is over all of them (data processing inequality); others read every class.
    """

    reads: ClassVar[Offer]

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """Contributions and slopes, both [..., O], of O outcomes. ``q`` and ``p`` are the exponentials of the logs."""
        ...


def log_probabilities(logits: Tensor) -> Tensor:
    """`log_softmax` over the last dimension, at least `FLOOR`."""
    return torch.log_softmax(logits, -1).clamp_min(FLOOR)


def distributions(logits: Tensor, room: Tensor | None = None) -> Parts:
    """`log_probabilities`, to the bit, and probabilities; without a graph.

    ``room``: where the probabilities are written, if not in a tensor of their own; the logits themselves, if they may go.
    """
    logs = torch.log_softmax(logits, -1)
    p = torch.softmax(logs, -1) if room is None else torch.softmax(logs, -1, out=room)  # fewer passes than by `exp`
    return logs.clamp_min_(FLOOR), p


def dense(divergence: Divergence, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The divergence of two sets of logits [..., V], nats, to [...]; the teacher's side is detached."""
    log_q, log_p = log_probabilities(student_logits), log_probabilities(teacher_logits.detach())
    contributions, _ = divergence.parts(log_q, log_q.exp(), log_p, log_p.exp())
    return contributions.sum(-1)


def mixed(a: Tensor, b: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """``share * a + (1 - share) * b``, built in probability space and never 0, and its logarithm."""
    mixture = torch.lerp(b, a, share).clamp_min(torch.finfo(b.dtype).tiny)
    return mixture, mixture.log()


@dataclass(frozen=True)
class ForwardKl:
    """``KL(p || q)``: covers all that the teacher does. A mean under the teacher, so draws of its classes are enough."""

    reads: ClassVar[Offer] = Offer.EXPECTATIONS

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """See `Divergence.parts`."""
        return jensen_shannon(0, log_q, log_p) or self.weighted(log_q, log_p, p)

    @staticmethod
    def weighted(log_q: Tensor, log_p: Tensor, weights: Tensor) -> Parts:
        """The same where ``weights`` are not the exponentials of ``log_p``, which a kernel takes them for."""
        return (log_p - log_q).mul_(weights), -weights


@dataclass(frozen=True)
class ReverseKl:
    """``KL(q || p)``: seeks one of the teacher's modes."""

    reads: ClassVar[Offer] = Offer.OUTCOMES

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """See `Divergence.parts`."""
        if (found := jensen_shannon(1, log_q, log_p)) is not None:
            return found
        value = (log_q - log_p).mul_(q)
        return value, value + q


@dataclass(frozen=True)
class JensenShannon:
    """``beta KL(p || m) + (1 - beta) KL(q || m)`` with ``m = beta p + (1 - beta) q``, 0 < beta < 1 (GKD, Agarwal et al. 2024)."""

    beta: float = 0.5
    reads: ClassVar[Offer] = Offer.OUTCOMES

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise ValueError(
                f"beta is {self.beta}, and must be between 0 and 1: with GKD's weights the divergence vanishes at both. For an "
                "end use forward_kl, reverse_kl, or the continuous variant, whose ends they are."
            )

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """See `Divergence.parts`."""
        if (found := jensen_shannon(self.beta, log_q, log_p)) is not None:
            return found
        _, log_m = mixed(p, q, self.beta)
        ours = (log_q - log_m).mul_(q).mul_(1 - self.beta)
        return (log_p - log_m).mul_(p).mul_(self.beta).add_(ours), ours


@dataclass(frozen=True)
class ContinuousJensenShannon:
    """``(1 - beta) KL(p || m) + beta KL(q || m)`` with ``m = beta p + (1 - beta) q``: forward KL at 0, reverse at 1."""

    beta: float = 0.5
    reads: ClassVar[Offer] = Offer.OUTCOMES

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta is {self.beta}, and must be at least 0 (forward KL) and at most 1 (reverse KL).")

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """See `Divergence.parts`."""
        b = self.beta
        if b in (0, 1):  # a mixture of one cannot hold what is smaller than the smallest float; its logarithm can
            return (ReverseKl() if b else ForwardKl()).parts(log_q, q, log_p, p)
        m, log_m = mixed(p, q, b)
        gap = (log_q - log_m).mul_(q).mul_(b)
        value = (log_p - log_m).mul_(p).mul_(1 - b).add_(gap)
        return value, gap + b * q - (1 - b) * (q / m) * ((1 - b) * p + b * q)


@dataclass(frozen=True)
class SkewKl:
    """``KL(p || alpha p + (1 - alpha) q)``, at most ``-log alpha`` (DistiLLM, Ko et al. 2024)."""

    alpha: float = 0.1
    reads: ClassVar[Offer] = Offer.OUTCOMES

    def __post_init__(self) -> None:
        _demand_share(self.alpha)

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """See `Divergence.parts`."""
        if self.alpha == 0:
            return ForwardKl().parts(log_q, q, log_p, p)
        m, log_m = mixed(p, q, self.alpha)
        return (log_p - log_m).mul_(p), (q / m).mul_(p).mul_(self.alpha - 1)


@dataclass(frozen=True)
class SkewReverseKl:
    """``KL(q || (1 - alpha) p + alpha q)``, at most ``-log alpha`` (DistiLLM, Ko et al. 2024)."""

    alpha: float = 0.1
    reads: ClassVar[Offer] = Offer.OUTCOMES

    def __post_init__(self) -> None:
        _demand_share(self.alpha)

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """See `Divergence.parts`."""
        if self.alpha == 0:
            return ReverseKl().parts(log_q, q, log_p, p)
        m, log_m = mixed(q, p, self.alpha)
        value = (log_q - log_m).mul_(q)
        return value, value + (q / m).mul_(-self.alpha).add_(1).mul_(q)


@dataclass(frozen=True)
class TotalVariation:
    """``1/2 sum |p - q|``: 1 less the share that speculative decoding accepts. Its slope jumps where p = q, and is 0 there."""

    reads: ClassVar[Offer] = Offer.OUTCOMES

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """See `Divergence.parts`."""
        gap = q - p
        return gap.abs().mul_(0.5), gap.sign().mul_(q).mul_(0.5)


@dataclass(frozen=True)
class AdaptiveKl:
    """``w KL(p || q) + (1 - w) KL(q || p)``, w the head's share of ``|p - q|`` (AKL, Wu et al. 2025, arXiv:2404.02657).

    The head are the teacher's likeliest outcomes, as few as have a mass of ``mass``; w is a constant to the gradient.
    """

    mass: float = 0.5
    reads: ClassVar[Offer] = Offer.ROWS

    def __post_init__(self) -> None:
        if not 0 < self.mass < 1:
            raise ValueError(
                f"mass is {self.mass}, and must be between 0 and 1: the share of the teacher's mass in the head."
            )

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """See `Divergence.parts`."""
        share = self._share(q.detach(), p).unsqueeze(-1)
        back = q * (log_q - log_p)
        return share * p * (log_p - log_q) + (1 - share) * back, (1 - share) * (back + q) - share * p

    def _share(self, q: Tensor, p: Tensor) -> Tensor:
        gap, width = (p - q).abs(), p.shape[-1]
        size = min(width, 256)  # few hold half of the mass, mostly
        top, at = p.topk(size, -1)
        inside, flat = self._in_head(gap, top, at), top.sum(-1) < self.mass
        if size < width and bool(flat.any()):
            inside[flat] = self._in_head(gap[flat], *p[flat].sort(-1, descending=True))
        every = gap.sum(-1)
        return torch.where(every > 0, inside / every.clamp_min(torch.finfo(p.dtype).tiny), 0.5)

    def _in_head(self, gap: Tensor, top: Tensor, at: Tensor) -> Tensor:
        """The sum of ``gap`` over the head. ``top``, ``at``: the likeliest outcomes, in order, and where they stand."""
        head = top.cumsum(-1) - top < self.mass  # the first whose predecessors do not reach it
        return torch.where(head, gap.gather(-1, at), 0.0).sum(-1)


@dataclass(frozen=True)
class AlphaBeta:
    """The alpha-beta divergence (ABKD, Wang et al. 2025): (1, 0) is the forward KL, (0, 1) the reverse; neither is negative.

    ``-1 / (alpha beta) sum [p^alpha q^beta - alpha / (alpha + beta) p^(alpha + beta) - beta / (alpha + beta) q^(alpha + beta)]``.
    """

    alpha: float = 0.2
    beta: float = 0.7
    reads: ClassVar[Offer] = Offer.ROWS  # it is no f-divergence: merging classes may make it larger

    def __post_init__(self) -> None:
        if not (min(self.alpha, self.beta) >= 0 and 0 < self.alpha + self.beta < inf):
            raise ValueError(
                f"alpha is {self.alpha} and beta is {self.beta}; neither may be negative, for then a probability of 0 has an "
                "infinite power, and one of them must be above 0. (1, 0) is the forward KL and (0, 1) the reverse."
            )

    def parts(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor) -> Parts:
        """See `Divergence.parts`."""
        a, b = self.alpha, self.beta
        if b == 0:
            pa, qa = (a * log_p).exp(), (a * log_q).exp()
            return (a * pa * (log_p - log_q) - pa + qa) / a**2, (qa - pa) / a
        if a == 0:
            pb, qb = (b * log_p).exp(), (b * log_q).exp()
            return (b * qb * (log_q - log_p) - qb + pb) / b**2, qb * (log_q - log_p)
        cross, ours, theirs = (a * log_p + b * log_q).exp(), ((a + b) * log_q).exp(), ((a + b) * log_p).exp()
        value = (a / (a + b) * theirs + b / (a + b) * ours - cross) / (a * b)
        return value, (ours - cross) / a


def _demand_share(alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise ValueError(
            f"alpha is {alpha}, and must be at least 0 (no skew) and below 1, where both sides of the divergence are the same."
        )
