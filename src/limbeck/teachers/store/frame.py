"""Rows of bytes: what each row of a store holds of the tokens that count, one after another, and where they belong.

A row is a header of four numbers (its own bytes, its kind, how many positions it has, the classes), then for `TOKENS` the mask of
the positions that are there, one bit each, then what the codec made. A row of no bytes is not there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.losses.storages import Storage
from limbeck.teachers.store.bits import Bytes
from limbeck.teachers.store.codec import Column, Ints

VERSION: Final = 1
ONE, FIXED, TOKENS = 1, 2, 3
"""Kinds of rows: one distribution; as many as every other row has; those of tokens, in rows of any length."""
_HEADER: Final = 16
_U4: Final = np.dtype("<u4")


@dataclass(frozen=True)
class Rows:
    """What is encoded: rows ``ids`` and ``views``, int64 [B].

    ``counted``: bool [B, T] on the CPU, the positions that are kept; None: all, or the logits have no positions. ``labels``:
    int64 [B] or [B, T], negative where there is none; None: none.
    """

    ids: Ints
    views: Ints
    counted: Tensor | None = None
    labels: Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """The N places of [B, T] that are encoded: where they are, counted over both; ``row``, ``position``, int64 [N]."""

    places: Tensor
    row: Ints
    position: Ints
    starts: Ints
    """Where each row begins among them, int64 [B + 1]."""

    @classmethod
    def of(cls, logits: Storage, rows: Rows) -> "Kept":
        """The places of ``logits`` that are kept.

        Raises:
            SignalError: the logits have more dimensions, or other ones than the mask.
        """
        shape = tuple(logits.rows)
        if len(shape) not in (1, 2) or (rows.counted is not None and tuple(rows.counted.shape) != shape):
            counted = (
                ""
                if rows.counted is None
                else f", and a mask of the shape {list(rows.counted.shape)} says which are kept"
            )
            raise SignalError(
                f"The logits have the leading dimensions {list(shape)}{counted}: a codec stores logits of rows, or of rows "
                "and tokens with a mask of the same shape."
            )
        positions = shape[1] if len(shape) == 2 else 1
        every = torch.ones(shape, dtype=torch.bool) if rows.counted is None else rows.counted
        places = every.reshape(-1).nonzero()[:, 0]
        row, position = np.divmod(places.numpy(), max(1, positions))
        return cls(places, row, position, np.searchsorted(row, np.arange(shape[0] + 1)))

    def labels(self, rows: Rows) -> Tensor | None:
        """Those of the places, int64 [N] on the CPU."""
        return None if rows.labels is None else rows.labels.cpu().reshape(-1)[self.places]


def framed(logits: Storage, rows: Rows, kept: Kept, sound: NDArray[np.bool_], body: Callable[[slice], Bytes]) -> Tensor:
    """The rows as bytes, uint8 [B, longest], zeros after each. ``body``: what the codec made of some of the places.

    ``sound``: bool [N]; a row with a place that is not sound is left out.
    """
    made: list[Bytes] = []
    for number in range(len(rows.ids)):
        own = slice(int(kept.starts[number]), int(kept.starts[number + 1]))
        if not sound[own].all():
            made.append(np.empty(0, np.uint8))
            continue
        mask, kind, positions = np.empty(0, np.uint8), ONE, 1
        if rows.counted is not None:
            seen = rows.counted[number].numpy()
            kind, positions = TOKENS, int(seen.nonzero()[0].max(initial=-1)) + 1
            mask = np.packbits(seen[:positions], bitorder="little")
        elif len(logits.rows) == 2:
            kind, positions = FIXED, logits.rows[1]
        inner = body(own)
        header = np.array([_HEADER + len(mask) + len(inner), kind, positions, logits.classes], dtype=_U4)
        made.append(np.concatenate([header.view(np.uint8), mask, inner]))
    out = np.zeros((len(made), max(map(len, made), default=0)), dtype=np.uint8)
    for number, one in enumerate(made):
        out[number, : len(one)] = one
    return torch.from_numpy(out)


def sizes(rows: Tensor) -> Ints:
    """The bytes of each row of [B, longest]; 0: it is not there."""
    raw = np.ascontiguousarray(rows.numpy()[:, :4])
    return np.zeros(len(raw), np.int64) if raw.shape[1] < 4 else raw.view(_U4)[:, 0].astype(np.int64)


def column(rows: Tensor) -> Column:
    """Rows of bytes as they are kept: without what follows each."""
    own = sizes(rows)
    flat = torch.cat([rows[number, :size] for number, size in enumerate(own.tolist())])
    offsets = torch.from_numpy(np.concatenate([np.zeros(1, np.int64), own.cumsum()]))
    return Column(flat, (0,), offsets, torch.from_numpy(own)[:, None])


class Frames:
    """Rows of bytes, read.

    Args:
        rows: uint8 [B, longest].
        counted: bool [B, L] on the CPU, the positions that must be there; None: whatever there is.

    Raises:
        SignalError: they are not there, or the rows have different kinds.
    """

    def __init__(self, rows: Tensor, counted: Tensor | None = None) -> None:
        raw, own = rows.numpy(), sizes(rows)
        heads = [raw[number, :_HEADER].view(_U4).tolist() if size else None for number, size in enumerate(own.tolist())]
        there = [head for head in heads if head is not None]
        kinds = {(kind, positions if kind == FIXED else 0, classes) for _, kind, positions, classes in there}
        if len(kinds) > 1:
            raise SignalError(
                f"The stored logits of one batch have different shapes (kind, positions, classes: {sorted(kinds)}) and cannot be "
                "put together: give all inputs one shape, or teach with another signal."
            )
        self.kind: int
        self.classes: int
        self.kind, _, self.classes = kinds.pop() if kinds else (ONE if counted is None else TOKENS, 0, 1)
        longest = max((head[2] for head in there), default=0)
        self.mask = np.zeros((len(raw), longest), dtype=bool)
        self.bodies: list[Bytes] = []
        for number, head in enumerate(heads):
            size, _, positions, _ = head or (0, 0, 0, 0)
            bits = (positions + 7) // 8 if self.kind == TOKENS else 0
            seen = raw[number, _HEADER : _HEADER + bits]
            self.mask[number, :positions] = np.unpackbits(seen, count=positions, bitorder="little") if bits else True
            self.bodies.append(raw[number, _HEADER + bits : size])
        self.counts: list[int] = self.mask.sum(1).tolist()
        """How many places each row has."""
        self.length = counted.shape[1] if counted is not None and self.kind == TOKENS else longest
        if counted is not None and self.kind == TOKENS:
            lacking = counted.numpy().copy()
            lacking[:, :longest] &= ~self.mask[:, : self.length]
            if lacking.any():
                raise SignalError(
                    f"{int(lacking.sum())} tokens that count have no stored logits: they were stored when other tokens counted. "
                    "Label again into another folder."
                )

    def parts(self, sizes: Sequence[Sequence[int]]) -> list[list[Bytes]]:
        """The bodies cut into parts one after another: ``sizes`` of each part, for each row."""
        found, starts = [], [0] * len(self.bodies)
        for own in sizes:
            found.append([body[at : at + size] for body, at, size in zip(self.bodies, starts, own, strict=True)])
            starts = [at + size for at, size in zip(starts, own, strict=True)]
        return found

    def spread(self, values: Tensor, fill: float, device: torch.device | str) -> Tensor:
        """Values of the places, [N, ...], where they belong, [B, L, ...], or [B, ...] of single distributions."""
        shape = (*self.mask.shape, *values.shape[1:])
        if len(values) == self.mask.size:
            whole = values.view(shape)
        else:
            whole = values.new_full(shape, fill)
            whole[torch.from_numpy(self.mask)] = values
        if self.kind == ONE:
            return whole[:, 0].to(device) if shape[1] else whole.new_full((shape[0], *shape[2:]), fill).to(device)
        if self.length > shape[1]:
            more = values.new_full((shape[0], self.length - shape[1], *shape[2:]), fill)
            whole = torch.cat([whole, more], 1)
        return whole[:, : self.length].contiguous().to(device)
