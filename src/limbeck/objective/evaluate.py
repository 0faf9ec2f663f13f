"""Divergences over large vocabularies: no tensor of all rows and all classes is ever made, forward or backward.

Rows are taken a chunk at a time for the products with the head, and a few at a time, as many as the processor's cache holds, for
all that is elementwise. What a row weighs is known beforehand, so the gradient is made in the forward pass, in closed form, and
every divergence of the objective is evaluated over the same logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from limbeck.losses.divergences import FLOOR, Divergence, ForwardKl, distributions
from limbeck.losses.offer import Offer
from limbeck.losses.storages import Chunked, Dense, Head, Outcomes, Storage

_CHUNK: Final = 2**22  # logits of a chunk: larger buffers are slower to get
_ROWS: Final = 512  # of a chunk at least: products of fewer read the head's weights too often
_BLOCK: Final = 2**18  # logits of a block: a few buffers of so many floats stay in the cache
_LAUNCHED: Final = 2**24  # and of one on an accelerator, where a launch costs more than a cache gives


@dataclass(frozen=True)
class Asked:
    """One divergence over N rows: ``scale * sum_i counts_i * D(teacher_i, student_i)``.

    ``counts``: [N], what each row counts in the mean; 0 leaves it out. ``scale``: of the sum and its gradient, not of the mean.
    """

    divergence: Divergence
    teacher: Storage
    counts: Tensor
    scale: float = 1.0
    temperature: float = 1.0


def streamed(student: Chunked | Dense, asked: Sequence[Asked], again: bool = False) -> tuple[Tensor, Tensor]:
    """The sum of all that is asked, with a graph to the hidden states and the head; and each one's own mean, [len(asked)].

    The student's rows and those of every teacher are [N]. A frozen head costs no gradient. ``again``: the graph is walked more
    than once; otherwise its gradients are handed over, and a second walk raises a RuntimeError.
    """
    hidden, head = student.source
    weight, bias = (None, None) if head is None else (head.weight, head.bias)
    found: tuple[Tensor, Tensor] = _Streamed.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, head, tuple(asked), again
    )
    return found


@torch.no_grad()
def distances(divergence: Divergence, student: Chunked | Dense, teacher: Storage) -> Tensor:
    """The divergence of each row, float32 [N], without a graph."""
    student, other = aligned(student, teacher)
    assert other is not None
    rows, found = max(1, _BLOCK * 16 // student.classes), [torch.empty(0, device=student.carrier.device)]
    for start in range(0, student.rows[0], rows):
        stop = min(start + rows, student.rows[0])
        log_q = student.chunk(start, stop).outcomes(0, stop - start).log_p
        known = other.chunk(start, stop).outcomes(0, stop - start)
        found.append(_parts(divergence, log_q, log_q.exp(), known)[0].float())
    return torch.cat(found)


def aligned(student: Any, teacher: Storage | None) -> tuple[Any, Storage | None]:
    """Both sides with the classes of the smaller one: a vocabulary may be padded, where both have the same tokenizer."""
    if student is None or teacher is None or student.classes == teacher.classes:
        return student, teacher
    fewer = min(student.classes, teacher.classes)
    return tuple(one if one.classes == fewer else one.cut(fewer) for one in (student, teacher))  # type: ignore[return-value]


class _Streamed(torch.autograd.Function):
    """The gradients are made in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        head: Head | None,
        asked: tuple[Asked, ...],
        again: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `streamed`."""
        classes = hidden.shape[1]
        if head is not None and weight is not None:
            head, classes = replace(head, weight=weight, bias=bias), len(weight)
        wanted = list(ctx.needs_input_grad[:3])
        made = [
            torch.zeros_like(one) if one is not None and want else None
            for one, want in zip((hidden, weight, bias), wanted, strict=True)
        ]
        totals = hidden.new_zeros(len(asked), dtype=torch.promote_types(hidden.dtype, torch.float32))
        teachers = {id(one.teacher): one.teacher for one in asked}
        many = [one for one in teachers.values() if one.offers == Offer.ROWS]
        rows = max(1, min(len(hidden), _CHUNK // classes // _ROWS * _ROWS or _ROWS))
        room = hidden.new_empty(1 + len(many), rows, classes) if hidden.dtype == torch.float32 else None
        for start in range(0, len(hidden), rows):
            stop = min(start + rows, len(hidden))
            spare = iter(() if room is None else room[:, : stop - start])
            part, own = hidden[start:stop], next(spare, None)
            logits = _copied(part, own) if head is None else head(part, own)
            chunks = {
                key: one.chunk(start, stop, next(spare, None) if one.offers == Offer.ROWS else None)
                for key, one in teachers.items()
            }
            pieces = [
                replace(one, teacher=chunks[id(one.teacher)], counts=one.counts[start:stop].to(totals.dtype))
                for one in asked
            ]
            if not any(wanted):
                _descend(logits, pieces, totals)
                continue
            kept = logits.clone() if head is not None and head.softcap is not None else None
            _descend(logits, pieces, totals)
            _collect(made, part, logits if head is None else head.back(logits, kept), weight, start)
        ctx.made, ctx.again = made, again
        ctx.mark_non_differentiable(totals)
        return (totals * totals.new_tensor([one.scale for one in asked])).sum(), totals

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        """Scales what the forward pass made. Autograd copies a gradient that somebody else holds: a head's is large."""
        made, ctx.made = ctx.made, ctx.made if ctx.again else None
        if made is None:
            raise RuntimeError("these gradients were handed over already: ask for streamed(..., again=True)")
        scale = float(grad)
        for one in made if scale != 1 and not ctx.again else ():
            if one is not None:
                one.mul_(scale)
        if scale != 1 and ctx.again:
            made = [one if one is None else one * scale for one in made]
        return (*made, None, None, None)


def _copied(logits: Tensor, room: Tensor | None) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide, copy=True) if room is None else room.copy_(logits)


def _collect(made: Sequence[Tensor | None], hidden: Tensor, slope: Tensor, weight: Tensor | None, start: int) -> None:
    """Adds one chunk's part to the gradients of hidden states, weight and bias."""
    slope, stop = slope.to(hidden.dtype), start + len(hidden)
    if made[0] is not None and weight is None:
        made[0][start:stop] = slope
    elif made[0] is not None and weight is not None:
        torch.mm(slope, weight.to(hidden.dtype), out=made[0][start:stop])
    if made[1] is not None:
        same = made[1].dtype == hidden.dtype
        made[1].addmm_(slope.t(), hidden) if same else made[1].add_(slope.t() @ hidden)
    if made[2] is not None:
        made[2].add_(slope.sum(0))


def _descend(logits: Tensor, asked: Sequence[Asked], totals: Tensor) -> None:
    """Adds the means to ``totals``, and puts the gradient in the place of ``logits``, [n, V]."""
    rows = _together(logits)
    temperatures = sorted({one.temperature for one in asked})
    alike = {t: [(place, one) for place, one in enumerate(asked) if one.temperature == t] for t in temperatures}
    for start in range(0, len(logits), rows):
        block = logits[start : start + rows]
        if len(temperatures) == 1:
            only = temperatures[0]
            _soften(block if only == 1 else block.div_(only), alike[only], totals, start, only)
            continue
        softened = block.new_zeros(block.shape)
        for temperature in temperatures:
            softened += _soften(block / temperature, alike[temperature], totals, start, temperature)
        block.copy_(softened)


def _together(logits: Tensor) -> int:
    """Rows of a block: each thread has one at least, as a softmax divides rows among them and never a row."""
    if logits.device.type != "cpu":
        return max(1, _LAUNCHED // logits.shape[1])
    return max(torch.get_num_threads(), _BLOCK // logits.shape[1])


def _soften(
    block: Tensor, asked: Sequence[tuple[int, Asked]], totals: Tensor, start: int, temperature: float
) -> Tensor:
    """`_descend` for a few rows, [n, V], already divided by the temperature; their gradient takes the place of ``block``."""
    log_q, q = distributions(block, block)  # fewer buffers, so that they stay in the cache
    known: dict[int, Outcomes] = {}
    every: Tensor | None = None
    some: list[tuple[Tensor, Tensor]] = []
    total = block.new_zeros(len(block), 1)
    for place, one in asked:
        key = id(one.teacher)
        if key not in known:
            known[key] = one.teacher.outcomes(start, start + len(block), temperature)
        counts = one.counts[start : start + len(block), None]
        values, slopes = _parts(one.divergence, log_q, q, known[key])
        totals[place] += counts[:, 0].dot(values)
        slopes = slopes.to(q.dtype).mul_(counts * (one.scale / temperature))
        total += slopes.sum(-1, keepdim=True)
        if (ids := known[key].ids) is not None:
            some.append((ids.clamp_min(0), slopes))
        else:
            every = slopes if every is None else every.add_(slopes)
    if every is None:
        torch.mul(q, -total, out=block)
    else:
        torch.addcmul(every, q, -total, out=block)
    for ids, slopes in some:
        block.scatter_add_(1, ids, slopes)
    return block


def _parts(divergence: Divergence, log_q: Tensor, q: Tensor, known: Outcomes) -> tuple[Tensor, Tensor]:
    """Values [n], and slopes with respect to ``log_q`` at the outcomes' classes, [n, V] or [n, k]."""
    if known.ids is None:
        contributions, slopes = _at(divergence, log_q, q, known)
        return contributions.sum(-1), slopes
    ids = known.ids.clamp_min(0)
    there = known.ids >= 0
    ours, log_ours = torch.where(there, q.gather(1, ids), 0.0), torch.where(there, log_q.gather(1, ids), FLOOR)
    if known.tail:
        rest = (1 - ours.sum(-1, keepdim=True)).clamp_min(torch.finfo(ours.dtype).eps)
        contributions, slopes = divergence.parts(
            torch.cat([log_ours, rest.log()], -1), torch.cat([ours, rest], -1), known.log_p, known.p
        )
        # the tail's log-probability is log(1 - sum q), whose slope at log q is -q / rest
        slopes = slopes[:, :-1] - slopes[:, -1:] * (ours / rest)
    else:
        contributions, slopes = _at(divergence, log_ours, ours, known)
    return contributions.sum(-1), torch.where(there, slopes, 0.0)


def _at(divergence: Divergence, log_q: Tensor, q: Tensor, known: Outcomes) -> tuple[Tensor, Tensor]:
    """Contributions and slopes at each outcome."""
    if known.weighted and isinstance(divergence, ForwardKl):
        return divergence.weighted(log_q, known.log_p, known.p)
    return divergence.parts(log_q, q, known.log_p, known.p)
