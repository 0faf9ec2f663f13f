"""The codec `full`: exact bits and dtype of every signal; rows of unequal shape are packed one after another."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from limbeck.errors import SignalError

NAME, VERSION = "full", 1
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One signal of n rows. All of one shape: ``values`` [n, ...]. Else ``values`` is flat, with ``offsets`` int64
    [n + 1] and ``shapes`` int64 [n, dimensions of a row]. ``per_token``: the first dimension of a row is the length.
    """

    values: Tensor
    per_token: bool = False
    offsets: Tensor | None = None
    shapes: Tensor | None = None

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of every row, None where they differ."""
        return tuple(self.values.shape[1:]) if self.offsets is None else None

    @cached_property
    def form(self) -> tuple[tuple[int, ...] | None, torch.dtype, bool]:
        """Rows of columns of one form can be moved as bytes, unless the shape is None."""
        return self.shape, self.values.dtype, self.per_token

    @property
    def kind(self) -> tuple[str, int, bool]:
        """What all rows of one shard have in common: dtype, dimensions of a row, whether per token."""
        dimensions = self.values.ndim - 1 if self.shapes is None else self.shapes.shape[1]
        return str(self.values.dtype).removeprefix("torch."), dimensions, self.per_token

    @cached_property
    def raw(self) -> NDArray[np.uint8]:
        """The bytes of a column of one shape, [n, bytes of a row], without a copy."""
        size = self.values[0].numel() * self.values.element_size() if len(self.values) else 0
        return self.values.reshape(-1).view(torch.uint8).numpy().reshape(len(self.values), size)

    def row(self, index: int) -> Tensor:
        """Row ``index`` in its own shape."""
        if self.offsets is None or self.shapes is None:
            return self.values[index]
        start, stop = self.offsets[index : index + 2].tolist()
        return self.values[start:stop].view(self.shapes[index].tolist())


def joined(columns: Sequence[Column]) -> Column:
    """The rows of all ``columns``, which are of one kind, one after another."""
    first = columns[0]
    if all(column.shape is not None and column.shape == first.shape for column in columns):
        return Column(torch.cat([column.values for column in columns]), first.per_token)
    return _of([column.row(index) for column in columns for index in range(rows_of(column))], first.per_token)


def taken(column: Column, rows: Ints) -> Column:
    """Some rows of a column, in this order; one at least."""
    if column.offsets is None:
        return Column(column.values[torch.from_numpy(rows)], column.per_token)
    return _of([column.row(int(index)) for index in rows], column.per_token)


def _of(rows: Sequence[Tensor], per_token: bool) -> Column:
    """Rows of unequal shape, packed."""
    sizes = torch.tensor([0, *(row.numel() for row in rows)])
    flat = torch.cat([row.reshape(-1) for row in rows])
    shapes = torch.tensor([list(row.shape) for row in rows], dtype=torch.int64)
    return Column(flat, per_token, sizes.cumsum(0), shapes)


def rows_of(column: Column) -> int:
    """How many rows a column has."""
    return len(column.values) if column.shapes is None else column.shapes.shape[0]


def packed(ids: Ints, views: Ints, columns: Mapping[str, Column]) -> bytes:
    """A shard: the rows as one safetensors file."""
    tensors = {"ids": torch.from_numpy(ids), "views": torch.from_numpy(views)}
    signals: list[dict[str, Any]] = []
    for number, (name, column) in enumerate(sorted(columns.items())):
        signals.append({"name": name, "per_token": column.per_token})
        tensors[f"{number}.values"] = column.values.contiguous()
        if column.offsets is not None and column.shapes is not None:
            tensors[f"{number}.offsets"], tensors[f"{number}.shapes"] = column.offsets, column.shapes
    header = {"codec": NAME, "version": VERSION, "signals": signals, "index": index_digest(ids, views, signals)}
    content: bytes = save(tensors, {"limbeck": json.dumps(header)})
    return content


def index_digest(ids: Ints, views: Ints, signals: Sequence[Mapping[str, Any]]) -> str:
    """A checksum of what is read on opening; the file's own is verified only when values are read."""
    seen = hashlib.sha256(json.dumps([len(ids), *signals]).encode())
    seen.update(ids.tobytes() + views.tobytes())
    return seen.hexdigest()


def gather(name: str, places: tuple[Ints, Ints], columns: Mapping[int, Column], length: int | None) -> Tensor:
    """The rows [B, ...] of signal ``name`` at ``places`` (piece [B], row [B]); zeros where the piece is -1.

    Rows per token are cropped or padded with zeros to ``length``; None takes the longest.

    Raises:
        SignalError: the rows have different shapes that are not lengths.
    """
    piece, row = places
    used = [columns[number] for number in np.unique(piece[piece >= 0]).tolist()]
    first = used[0]
    if first.shape is not None and all(column.form == first.form for column in used):
        whole = not first.per_token or length is None or first.shape[0] == length
        if whole:
            return _same(piece, row, columns, first)
    per_token = any(column.per_token for column in used)
    rows = {at: columns[piece[at]].row(row[at]) for at in range(len(piece)) if piece[at] >= 0}
    shapes = {tuple(one.shape[1:] if per_token else one.shape) for one in rows.values()}
    if len(shapes) > 1:
        raise SignalError(
            f"The stored rows of {name!r} have different shapes, {sorted(shapes)[:3]}, and cannot be put into one "
            "batch: give all inputs one shape (pad texts to a fixed length), or teach with another signal."
        )
    if length is None:
        length = max(one.shape[0] for one in rows.values()) if per_token else 0
    shape = (length, *next(iter(shapes))) if per_token else next(iter(shapes))
    dtype = first.values.dtype
    for column in used[1:]:
        dtype = torch.promote_types(dtype, column.values.dtype)
    out = torch.zeros((len(piece), *shape), dtype=dtype)
    for at, one in rows.items():
        if per_token:
            out[at, : one.shape[0]] = one[:length]
        else:
            out[at] = one
    return out


def _same(piece: Ints, row: Ints, columns: Mapping[int, Column], like: Column) -> Tensor:
    """Rows of one shape and dtype, moved as bytes: one copy a piece, then one to put them in order."""
    order = np.argsort(piece, kind="stable")
    sorted_piece, sorted_row = piece[order], row[order]
    out = np.zeros((len(piece), like.raw.shape[1]), dtype=np.uint8)
    starts = np.flatnonzero(np.r_[True, sorted_piece[1:] != sorted_piece[:-1]]).tolist()
    for start, stop in zip(starts, [*starts[1:], len(piece)], strict=True):
        if sorted_piece[start] >= 0:
            raw = columns[int(sorted_piece[start])].raw
            raw.take(sorted_row[start:stop], axis=0, out=out[start:stop], mode="clip")
    if len(starts) > 1:
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        out = out[back]
    return torch.from_numpy(out).view(like.values.dtype).reshape(len(piece), *like.values.shape[1:])
