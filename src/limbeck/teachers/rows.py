"""Rows of a batch by what names them, for teachers that keep their answers."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.data.batch import REAL, Batch
from limbeck.errors import SignalError
from limbeck.teachers.store.codec import Ints

Rows = NDArray[np.bool_]


def named(batch: Batch) -> tuple[Ints, Ints, Rows]:
    """The ids and views of a batch, and which of its rows are real."""
    return batch.ids.cpu().numpy(), batch.views.cpu().numpy(), batch.masks[REAL].cpu().numpy()


def filled(name: str, stored: Tensor, fresh: Tensor, rows: Rows) -> Tensor:
    """``stored`` [B, ...] with the fresh values put at ``rows``."""
    if stored.shape[1:] != fresh.shape[1:]:
        raise SignalError(
            f"Stored rows of {name!r} have the shape {list(stored.shape[1:])}, the teacher now gives "
            f"{list(fresh.shape[1:])}: give all inputs one shape, or teach with another signal."
        )
    both = torch.promote_types(stored.dtype, fresh.dtype)
    stored = stored.to(both)
    stored[torch.from_numpy(rows).to(stored.device)] = fresh.to(both)
    return stored


def distinct(ids: Ints, views: Ints, rows: Rows) -> tuple[Ints, Ints]:
    """Where each (id, view) among ``rows`` is first, in order, and for every one of ``rows`` which of these it is."""
    at = np.flatnonzero(rows)
    pairs = np.stack([ids[at], views[at]], 1)
    _, first, back = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return at[first[order]], rank[back.reshape(-1)]
