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
    [n + 1] and ``shapes`` int64 [n, dimensions of a row]. ``tokens``: which dimensions of a row are its length.
    """

    values: Tensor
    tokens: tuple[int, ...] = ()
    offsets: Tensor | None = None
    shapes: Tensor | None = None

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of every row, None where they differ."""
        return tuple(self.values.shape[1:]) if self.offsets is None else None

    @cached_property
    def form(self) -> tuple[tuple[int, ...] | None, torch.dtype, tuple[int, ...]]:
        """Rows of columns of one form can be moved as bytes, unless the shape is None."""
        return self.shape, self.values.dtype, self.tokens

    @property
    def kind(self) -> tuple[str, int, tuple[int, ...]]:
        """What all rows of one shard have in common: dtype, dimensions of a row, and which of them are its length."""
        dimensions = self.values.ndim - 1 if self.shapes is None else self.shapes.shape[1]
        return str(self.values.dtype).removeprefix("torch."), dimensions, self.tokens

    @cached_property
    def raw(self) -> NDArray[np.uint8]:
        """The bytes of a column of one shape, [n, bytes of a row], without a copy."""
        size = self.values[0].numel() * self.values.element_size() if len(self.values) else 0
        return self.values.reshape(-1).view(torch.uint8).numpy().reshape(len(self.values), size)

    @cached_property
    def strips(self) -> tuple[NDArray[np.uint8], Ints] | None:
        """The bytes of rows that are bytes of any number, and where each begins, the end as well; None where rows are others."""
        if self.offsets is None or self.kind != ("uint8", 1, (0,)):
            return None
        return self.values.numpy(), np.asarray(self.offsets.numpy(), dtype=np.int64)

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
        return Column(torch.cat([column.values for column in columns]), first.tokens)
    return _of([column.row(index) for column in columns for index in range(rows_of(column))], first.tokens)


def taken(column: Column, rows: Ints) -> Column:
    """Some rows of a column, in this order; one at least."""
    if column.offsets is None:
        return Column(column.values[torch.from_numpy(rows)], column.tokens)
    return _of([column.row(int(index)) for index in rows], column.tokens)


def _of(rows: Sequence[Tensor], tokens: tuple[int, ...]) -> Column:
    """Rows of unequal shape, packed."""
    sizes = torch.tensor([0, *(row.numel() for row in rows)])
    flat = torch.cat([row.reshape(-1) for row in rows])
    shapes = torch.tensor([list(row.shape) for row in rows], dtype=torch.int64)
    return Column(flat, tokens, sizes.cumsum(0), shapes)


def rows_of(column: Column) -> int:
    """How many rows a column has."""
    return len(column.values) if column.shapes is None else column.shapes.shape[0]


def packed(ids: Ints, views: Ints, columns: Mapping[str, Column]) -> bytes:
    """A shard: the rows as one safetensors file."""
    tensors = {"ids": torch.from_numpy(ids), "views": torch.from_numpy(views)}
    signals: list[dict[str, Any]] = []
    for number, (name, column) in enumerate(sorted(columns.items())):
        signals.append({"name": name, "tokens": list(column.tokens)})
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

    Dimensions that are a length are cropped or padded with zeros to ``length``; None takes the longest.

    Raises:
        SignalError: the rows have different shapes that are not lengths.
    """
    piece, row = places
    used = [columns[number] for number in np.unique(piece[piece >= 0]).tolist()]
    first = used[0]
    alike = first.shape is not None and all(column.form == first.form for column in used)
    if alike and (length is None or all(first.values.shape[1 + axis] == length for axis in first.tokens)):
        return _same(piece, row, columns, first)
    if all(column.strips is not None for column in used):
        return _strips(piece, row, columns, length)
    tokens = {axis for column in used for axis in column.tokens}
    rows = {at: columns[piece[at]].row(row[at]) for at in range(len(piece)) if piece[at] >= 0}
    if length is None:
        length = max((one.shape[axis] for one in rows.values() for axis in tokens), default=0)
    shapes = {tuple(length if axis in tokens else size for axis, size in enumerate(one.shape)) for one in rows.values()}
    if len(shapes) > 1:
        raise SignalError(
            f"The stored rows of {name!r} have different shapes, {sorted(shapes)[:3]}, and cannot be put into one "
            "batch: give all inputs one shape, or teach with another signal."
        )
    dtype = first.values.dtype
    for column in used[1:]:
        dtype = torch.promote_types(dtype, column.values.dtype)
    (shape,) = shapes
    out = torch.zeros((len(piece), *shape), dtype=dtype)
    for at, one in rows.items():
        own = tuple(slice(min(size, whole)) for size, whole in zip(one.shape, shape, strict=True))
        out[at][own] = one[own]
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


def _strips(piece: Ints, row: Ints, columns: Mapping[int, Column], length: int | None) -> Tensor:
    """Rows of bytes of any length: a batch has many, and a tensor for each would take most of the time."""
    found = [np.empty(0, np.uint8)] * len(piece)
    for at, (number, index) in enumerate(zip(piece.tolist(), row.tolist(), strict=True)):
        if number >= 0 and (strips := columns[number].strips) is not None:
            values, offsets = strips
            found[at] = values[offsets[index] : offsets[index + 1]]
    length = max(map(len, found), default=0) if length is None else length
    out = np.zeros((len(piece), length), dtype=np.uint8)
    for at, one in enumerate(found):
        out[at, : len(one)] = one[:length]
    return torch.from_numpy(out)
