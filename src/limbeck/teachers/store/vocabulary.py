"""Large softmaxes, [n, V], in as few passes over the classes as can be: the likeliest classes, draws, entropy.

Classes are taken in blocks of neighbours. What runs over all of them is done for a few rows at a time, as many as the processor's
cache holds; what runs over blocks, or inside a few of them, for all rows at once.
"""

import math
from collections.abc import Iterator
from typing import Final, cast

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.losses.offer import Offer
from limbeck.losses.storages import Dense, Storage

_BLOCK: Final = 64
_NARROWER: Final = 8  # blocks of 64 first, of 8 among what is left, then classes
_CHUNK: Final = 2**24  # logits of one product with the head: 64 MiB
_CACHED: Final = 2**18  # logits that stay in the cache
_MODEST: Final = 40.0  # exponentials of logits up to here, and sums of them, are far inside the range of float32
_SOUND: Final = 1e-15, 1e30  # where the sum of exponentials of unshifted logits lies, it has lost nothing
_LOG2_E: Final = math.log2(
    math.e
)  # a power of 2 takes torch a quarter of the time of one of e; it is off by 6e-8 of |logit|


def chunks(logits: Storage, places: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The logits at ``places``, int64 [N] on the CPU, as [n, V], some rows at a time, and where in ``places`` these stand.

    Raises:
        SignalError: only a part of each distribution is there.
    """
    if logits.offers < Offer.ROWS:
        raise SignalError(
            f"Only {logits.offers.name.lower()} of these logits are known, and they cannot be stored anew in another form: "
            "store those of the model itself."
        )
    rows = max(1, _CHUNK // logits.classes)
    for start in range(0, len(places), rows):
        own = places[start : start + rows]
        if logits.offers is Offer.MATRIX and bool((own.diff() == 1).all()):  # neighbours need no copy
            chunk = cast(Dense, logits).logits.flatten(0, -2)[int(own[0]) : int(own[-1]) + 1]
        else:
            chunk = cast(Dense, logits.at(own).chunk(0, len(own))).logits
        yield slice(start, start + len(own)), chunk


def likeliest(logits: Tensor, k: int, size: int = _BLOCK) -> tuple[Tensor, Tensor]:
    """The k largest logits [n, k] of each row of [n, V], largest first, and their classes, int64; of equal ones any.

    A block whose maximum is not among the k largest maxima holds none of them. What is left is narrowed down by smaller blocks.
    """
    classes = logits.shape[1]
    blocks = classes // size
    if size == 1 or 2 * k > blocks:
        values, ids = logits.topk(k)
        return values, ids
    peaks = torch.cat([_blocked(logits[part], size).amax(2) for part in _few(logits)])
    best = peaks.topk(k, sorted=False).indices
    inside = torch.cat([_windows(logits, best, size).flatten(1), logits[:, blocks * size :]], 1)
    values, at = likeliest(inside, k, size // _NARROWER)
    own = best.gather(1, (at // size).clamp_max_(k - 1)) * size + at % size
    return values, torch.where(at < k * size, own, at + (blocks - k) * size)


def known_and_rest(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the classes ``ids`` [n, k], and of all the others together [n, 1], float64, under the softmax of
    [n, V]. The others are added up by themselves: as a difference from 1 they would be noise.
    """
    known = logits.gather(1, ids).float()
    shift = known.amax(1, keepdim=True)
    shift = torch.zeros_like(shift) if float(shift.abs().max()) < _MODEST else shift
    rest = torch.empty_like(shift)
    for part, _, masses in _exponentials(logits, shift):
        torch.sum(masses.scatter_(1, ids[part], 0.0), -1, keepdim=True, out=rest[part])
    known, others = known.double() - shift, rest.double()
    log_total = (others + known.exp().sum(-1, keepdim=True)).log()
    return known - log_total, others.log() - log_total


def drawn(logits: Tensor, uniforms: Tensor, entropy: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Classes drawn from each row of [n, V] with replacement, int64 [n, draws], and the rows' log-sum-exps and entropies, float64
    [n]; without ``entropy`` the former twice. Neither is finite where the logits are no distribution.

    ``uniforms``: float64 [n, draws], ascending; so are the classes. By inversion: the block by its mass, then the class inside.
    """
    sums, means, shift = _masses(logits, entropy)
    reach = sums.cumsum(-1)
    total = reach[:, -1:]
    target = torch.minimum(uniforms * total, _below(total))
    block = torch.searchsorted(reach, target, right=True)
    block = block.clamp_max_(sums.shape[1] - 1)  # beyond only where there is NaN
    mass = sums.gather(1, block)
    left = target - (reach.gather(1, block) - mass)
    at = torch.empty_like(block)
    for part in _few(logits, block.shape[1] * _BLOCK):
        inside = (_members(logits[part], block[part]).float() - shift[part, :, None]).exp_()
        inside = inside.double().cumsum(-1)  # with a ``dtype`` it is slower
        whole = inside[..., -1]
        own = torch.minimum((left[part] * (whole / mass[part])).clamp_min_(0), _below(whole))
        # the first to reach further has a mass of its own
        at[part] = torch.searchsorted(inside, own[..., None], right=True)[..., 0]
    log_total = total[:, 0].log() + shift[:, 0]
    return block * _BLOCK + at.clamp_max_(_BLOCK - 1), log_total, log_total - means / total[:, 0]


def _masses(logits: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Masses of blocks, float64 [n, m], sums of mass times logit, float64 [n] (0 without ``entropy``), and by what each row was
    lowered, [n, 1].
    """
    shift = torch.zeros(len(logits), 1, device=logits.device)
    if float(logits[:, :: 16 * _BLOCK].amax(1).abs().max()) < _MODEST:  # no shift is needed, most likely
        sums, means = _summed(logits, shift, entropy)
        total = sums.sum(-1)
        if bool(((total > _SOUND[0]) & (total < _SOUND[1])).all()):
            return sums, means, shift
    shift = torch.cat([logits[part].amax(-1, keepdim=True) for part in _few(logits)]).float()
    return *_summed(logits, shift, entropy), shift


def _summed(logits: Tensor, shift: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
    rows, classes = logits.shape
    blocks = classes // _BLOCK
    sums = torch.empty(rows, -(-classes // _BLOCK), device=logits.device)
    means = torch.zeros(rows, dtype=torch.float64, device=logits.device)
    ones = torch.ones(_BLOCK, device=logits.device)
    for part, own, masses in _exponentials(logits, shift):
        sums[part, :blocks] = _blocked(masses) @ ones
        if blocks * _BLOCK < classes:
            torch.sum(masses[:, blocks * _BLOCK :], 1, out=sums[part, -1])
        if entropy:
            means[part] = masses.mul_(own).sum(1)
    if bool(means.isnan().any()):  # 0 times minus infinity
        for part, own, masses in _exponentials(logits, shift):
            means[part] = masses.mul_(own.clamp_min(torch.finfo(own.dtype).min)).sum(1)
    return sums.double(), means


def _exponentials(logits: Tensor, shift: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows at a time: which, their logits in float32, and ``exp(logits - shift)``, which is overwritten by the next ones."""
    moved, room = bool(shift.any()), torch.empty(0)
    for part in _few(logits):
        own = logits[part].float()
        room = torch.empty_like(own) if room.shape != own.shape else room
        if moved:
            torch.sub(own, shift[part], out=room)
        yield part, own, torch.mul(room if moved else own, _LOG2_E, out=room).exp2_()


def _few(logits: Tensor, width: int = 0) -> Iterator[slice]:
    """All rows, as many at a time as are best read again and again; ``width``: the numbers that one takes, 0: its classes."""
    width = width or logits.shape[1]
    rows = max(1, _CACHED // width) if logits.device.type == "cpu" else max(1, len(logits))
    for start in range(0, len(logits), rows):
        yield slice(start, start + rows)


def _blocked(values: Tensor, size: int = _BLOCK) -> Tensor:
    """[n, V] as [n, blocks, size], but for what is left over."""
    blocks = values.shape[1] // size
    return values[:, : blocks * size].view(len(values), blocks, size)


def _windows(values: Tensor, block: Tensor, size: int = _BLOCK) -> Tensor:
    """Some whole blocks of each row of [n, V], int64 [n, m], as [n, m, size]; each copied at once, and not number by number."""
    row = torch.arange(len(values), device=values.device)[:, None]
    starts = block * size + row * values.shape[1]
    return values.flatten().unfold(0, size, 1).index_select(0, starts.flatten()).view(*block.shape, size)


def _members(logits: Tensor, block: Tensor) -> Tensor:
    """The logits of some blocks of each row, [n, draws, members]; minus infinity where what is left over is no whole block."""
    blocks = logits.shape[1] // _BLOCK
    over = logits[:, blocks * _BLOCK :]
    if not over.shape[1]:
        return _windows(logits, block)
    over = torch.nn.functional.pad(over, (0, _BLOCK - over.shape[1]), value=-torch.inf)[:, None]
    if not blocks:
        return over.expand(-1, block.shape[1], -1)
    return torch.where((block < blocks)[..., None], _windows(logits, block.clamp(max=blocks - 1)), over)


def _below(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.zeros_like(value))
