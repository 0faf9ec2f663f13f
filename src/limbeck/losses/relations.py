"""Losses between the relations of a batch's examples: how each stands to the others, on either side.

All of them: embeddings [B, ...] and [B, ...], flattened to [B, d] and of any two widths, to one value [], for a relation
belongs to the batch and not to an example. The teacher's side is detached. A batch that is spread over processes has
the relations of each part only.
"""

from math import exp

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from limbeck.losses.responses import elementwise_kl

# numbers in one piece of `rkd_angle`: 16 MiB in single precision
_PIECE = 2**22


def unit_rows(x: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis, [..., d]; a zero vector stays zero and passes no gradient.

    Zero is a vector with no entry above the root of the smallest normal number (1e-19 in single precision).
    """
    x, alive = _scaled(x, x.detach().abs().amax(-1, keepdim=True))
    # the length of a zero vector is replaced before the root, whose slope at 0 is infinite
    length = torch.where(alive, x.square().sum(-1, keepdim=True), 1.0).sqrt()
    return torch.where(alive, x / length, 0.0)


def _scaled(x: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Divided by its largest entry, so that squares neither overflow nor vanish, and where that entry is not zero.

    A constant to the gradient: right where what follows does not see the scale.
    """
    alive = ~(largest <= torch.finfo(x.dtype).tiny ** 0.5)  # what is not a number stays so
    return x / torch.where(alive, largest, 1.0), alive


def _embeddings(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if min(student.ndim, teacher.ndim) < 2 or len(student) != len(teacher) or len(student) == 0:
        raise ValueError(
            f"relations need embeddings [B, ...] of the same examples, at least one, but the student's are "
            f"{list(student.shape)} and the teacher's {list(teacher.shape)}"
        )
    return student.flatten(1), teacher.detach().flatten(1)


def _distances(x: Tensor) -> Tensor:
    """Euclidean distances of the B (B - 1) / 2 pairs, divided by the mean of those that are not 0."""
    # from differences and not from products: exact for close pairs, and the slope of a distance of 0 is 0
    distances = F.pdist(_scaled(x, x.detach().abs().max())[0])
    mean = distances.sum() / (distances > 0).sum().clamp_min(1)
    return distances / torch.where(mean == 0, 1.0, mean)


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss (delta 1) between pairwise distances, each side's divided by their mean; [B, ...] to [].

    RKD-D (Park et al. 2019, arXiv:1904.05068), as the mean over the ``B (B - 1)`` ordered pairs of distinct examples:
    the paper sums over them, the authors' code takes the mean over all ``B^2`` with the diagonal. Pairs at distance 0
    are left out of the dividing mean, as in their code; the student's mean has a gradient. Zero where the teacher's
    embeddings are the student's, rotated, shifted or scaled as a whole, and for a batch of one. Symmetric.
    """
    x, y = _embeddings(student, teacher)
    # pairs i < j: the other half is the same
    return F.huber_loss(_distances(x), _distances(y), reduction="sum") / max(len(x) * (len(x) - 1) // 2, 1)


def _angles(x: Tensor, vertices: Tensor) -> Tensor:
    """Cosines of the angles i, j, k at the vertices j, [J, B, B]; 0 where an arm has no length."""
    arms = unit_rows(x - vertices.unsqueeze(1))
    return arms @ arms.mT


def _angles_apart(x: Tensor, y: Tensor, first: int, last: int) -> Tensor:
    gap = F.huber_loss(_angles(x, x[first:last]), _angles(y, y[first:last]), reduction="none")
    # arms that are one (i = k) are no triple; arms without a length (i = j, k = j) are 0 on both sides
    return gap.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0.0).sum()


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss (delta 1) between the cosines of the angles i, j, k with vertex j; [B, ...] to [].

    RKD-A (Park et al. 2019, arXiv:1904.05068), as the mean over the ``B (B - 1) (B - 2)`` triples of distinct
    examples: the paper sums over them, the authors' code takes the mean over all ``B^3``. An arm between two equal
    embeddings has the cosine 0. Zero where the teacher's embeddings are the student's, rotated, shifted or scaled as a
    whole, and for a batch of one or two. Symmetric. Time ``B^3 d``; a large batch is computed, exactly, vertex by
    vertex, and again in the backward pass, which bounds the memory.
    """
    x, y = _embeddings(student, teacher)
    size = len(x)
    triples = max(size * (size - 1) * (size - 2), 1)
    step = max(_PIECE // (size * max(size, x.shape[1], y.shape[1])), 1)
    if step >= size:
        return _angles_apart(x, y, 0, size) / triples
    pieces = [
        checkpoint(_angles_apart, x, y, first, first + step, use_reentrant=False, preserve_rng_state=False)
        for first in range(0, size, step)
    ]
    return torch.stack(pieces).sum() / triples


def _similarities(x: Tensor) -> Tensor:
    x, _ = _scaled(x, x.detach().abs().max())
    return unit_rows(x @ x.T)


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the batch's similarity matrices, mean over the ``B^2`` entries; [B, ...] to [].

    SP (Tung & Mori 2019, arXiv:1907.09682): ``G = X X^T``, each row of G divided by its length. Zero where the teacher's
    embeddings are the student's under an orthogonal map or one positive scale, but not where they are shifted, and for
    a batch of one. At most ``4 / B``. Symmetric. Weights in the paper's size (3000) go with this reduction.
    """
    x, y = _embeddings(student, teacher)
    return (_similarities(x) - _similarities(y)).square().mean()


def correlation_congruence(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Squared difference of the batch's kernel matrices, mean over the ``B^2`` entries; [B, ...] to [].

    CC (Peng et al. 2019, arXiv:1904.01802): the Gaussian kernel ``exp(-gamma |x - y|^2)`` of embeddings of length 1, by
    its Taylor expansion ``exp(-2 gamma) sum_p (2 gamma)^p / p! (x.y)^p`` up to ``order``. Not the loss of that name in
    RepDistiller, which compares neighbours in the batch. Zero where cosines agree: under orthogonal maps and a positive
    scale for each example. Symmetric. The paper's linear layer in front and its sampling of classes are the caller's.
    """
    kernels = []
    for side in _embeddings(student, teacher):
        unit = unit_rows(side)
        cosines, series = unit @ unit.T, torch.ones((), dtype=side.dtype, device=side.device)
        for power in range(order, 0, -1):  # Horner's rule
            series = 1 + 2 * gamma / power * cosines * series
        kernels.append(exp(-2 * gamma) * series)
    return (kernels[0] - kernels[1]).square().mean()


def _neighbour_log_probs(x: Tensor) -> Tensor:
    """Log-probabilities of the other examples given each one, [B, B - 1]: the cosine kernel, divided by its sum."""
    size, unit = len(x), unit_rows(x)
    kernel = ((1 + unit @ unit.T) / 2).clamp_min(0.0)
    # without the diagonal, which stands in every (B + 1)th place
    others = kernel.flatten()[1:].reshape(size - 1, size + 1)[:, :-1].reshape(size, size - 1)
    others = others + torch.finfo(x.dtype).eps  # an opposite direction has the kernel 0, and its log would be infinite
    return others.log() - others.sum(-1, keepdim=True).log()


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """``KL(teacher || student)`` of each example's distribution over its neighbours, nats, mean over B; [B, ...] to [].

    PKT (Passalis & Tefas 2018, arXiv:1803.10837): probabilities are proportional to ``(1 + cos) / 2`` over the other
    examples. The example itself is left out, as in the paper (the authors' code counts it), and the sum over a row is
    kept (the code takes the mean over ``B^2``: its weight of 30000 is 30000 / B here). A zero embedding has the cosine 0
    to all. Zero where cosines agree, whatever the scale of each example, and for a batch of one or two. Not symmetric.
    """
    x, y = _embeddings(student, teacher)
    return elementwise_kl(_neighbour_log_probs(x), _neighbour_log_probs(y)).sum() / len(x)
