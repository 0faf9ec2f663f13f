"""Losses over large vocabularies by autograd, a piece at a time."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from limbeck.losses.divergences import log_probabilities
from limbeck.losses.offer import Offer
from limbeck.losses.storages import Chunked, Dense, Head, Storage, judged, wide

_LOGITS: Final = 2**22  # of a piece
Act = Callable[[Tensor, int, int], Tensor]
"""The values [n] of rows ``start`` to ``stop``, of the student's logits there, [n, V]; asked twice, and alike both times."""


def in_pieces(act: Act, student: Chunked | Dense, classes: int = 0) -> Tensor:
    """The values of all rows, [N], with a graph to what the student's logits [N, V] are made of.

    What a piece makes is made again in the backward pass, so no more than one piece of logits is held at once. ``classes``: how
    many more logits ``act`` makes of a row itself, if it makes more than the student's.
    """
    hidden, head = student.source
    weight, bias = (None, None) if head is None else (head.weight, head.bias)
    size = max(1, _LOGITS // max(student.classes, classes))
    found: Tensor = _Again.apply(hidden, weight, bias, head, act, size)  # type: ignore[no-untyped-call]
    return found


@torch.no_grad()
def known_at(teacher: Storage, start: int, stop: int, temperature: float = 1.0) -> Tensor:
    """The log-probabilities of every class in rows ``start`` to ``stop`` of [N, V], of a storage that offers `Offer.ROWS`."""
    return teacher.chunk(start, stop).outcomes(0, stop - start, temperature).log_p


def said(student: Chunked | Dense, ids: Tensor) -> Tensor:
    """The log-probability of one class a row, nats, [N] of [N, V] and int64 [N], with its graph."""
    return in_pieces(lambda logits, start, stop: _of(log_probabilities(logits), ids[start:stop]), student)


@torch.no_grad()
def known(teacher: Storage, ids: Tensor) -> Tensor:
    """The same without a graph, of any storage that offers `Offer.OUTCOMES`."""
    if teacher.offers < Offer.ROWS:
        return judged(teacher, ids)[:, 0]
    pieces = _pieces(len(ids), max(1, _LOGITS // teacher.classes))
    return torch.cat([_of(known_at(teacher, start, stop), ids[start:stop]) for start, stop in pieces])


class _Again(torch.autograd.Function):
    """The logits are made in the forward pass, and again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, head: Head | None, act: Act, size: int
    ) -> Tensor:
        """See `in_pieces`."""
        ctx.save_for_backward(hidden, weight, bias)
        ctx.head, ctx.act, ctx.size = head, act, size
        pieces = _pieces(len(hidden), size)
        return torch.cat([act(_logits(hidden[start:stop], weight, bias, head), start, stop) for start, stop in pieces])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Piece by piece."""
        given: tuple[Tensor | None, ...] = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        made = [
            torch.zeros_like(one) if want and one is not None else None for one, want in zip(given, wanted, strict=True)
        ]
        for start, stop in _pieces(len(grad), ctx.size):
            with torch.enable_grad():
                parts = [None if one is None else one.detach() for one in given]
                assert parts[0] is not None
                parts[0] = parts[0][start:stop]
                leaves = [
                    one.requires_grad_()
                    for one, own in zip(parts, made, strict=True)
                    if one is not None and own is not None
                ]
                values = ctx.act(_logits(parts[0], parts[1], parts[2], ctx.head), start, stop)
            found = iter(torch.autograd.grad(values, leaves, grad[start:stop]))
            if made[0] is not None:
                made[0][start:stop] = next(found)
            for own in made[1:]:
                if own is not None:
                    own.add_(next(found))
        return (*made, None, None, None)


def _logits(hidden: Tensor, weight: Tensor | None, bias: Tensor | None, head: Head | None) -> Tensor:
    if head is None or weight is None:
        return wide(hidden)
    return replace(head, weight=weight, bias=bias)(hidden)


def _pieces(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds; at least one, so that nothing is a tensor too."""
    return ((start, min(start + size, rows)) for start in range(0, max(1, rows), size))


def _of(logs: Tensor, ids: Tensor) -> Tensor:
    return logs.gather(1, ids[:, None])[:, 0]
