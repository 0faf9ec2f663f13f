"""Random numbers by address: a pure function of (salt, id, view), with no state and no order (SplitMix64)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_PAIRS = np.uint64(0x0000FFFF0000FFFF)
_LOW = np.uint64(0xFFFFFFFF)
_DEVIATION = 65536 / 3**0.5  # of a sum of four 16-bit words


def _mix(word: Words) -> Words:
    word = word + _GOLDEN
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _unsigned(value: Tensor) -> Words:
    return value.detach().cpu().to(torch.int64).numpy().astype(np.uint64)


def words(salt: int, ids: Tensor, views: Tensor, count: int = 1) -> Words:
    """Uniform 64-bit words [B, count] for ``ids`` and ``views``, both int64 [B]."""
    address = _mix(_mix(_mix(np.array([salt], dtype=np.uint64)) + _unsigned(ids)) + _unsigned(views))
    counter = np.arange(count, dtype=np.uint64) * _GOLDEN
    return _mix(address[:, None] + counter)


def uniforms(salt: int, ids: Tensor, views: Tensor, count: int = 1) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), float64 [B, count]."""
    return (words(salt, ids, views, count) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def normals(salt: int, ids: Tensor, views: Tensor, count: int) -> Tensor:
    """Numbers of mean 0 and variance 1, float32 [B, count]: sums of four uniforms, within 3.5, unrounded."""
    word = words(salt, ids, views, count)
    word = (word & _PAIRS) + ((word >> np.uint64(16)) & _PAIRS)
    word = (word & _LOW) + (word >> np.uint64(32))
    return torch.from_numpy((word.astype(np.float32) - np.float32(131070)) * np.float32(1 / _DEVIATION))


def shuffled(salt: int, seed: int, rows: Tensor) -> Tensor:
    """A place in [0, 1) for each of ``rows`` (int64 [n]), float64 [n]: sorting by it shuffles, everywhere alike."""
    return torch.from_numpy(uniforms(salt, rows, torch.full_like(rows, seed))[:, 0])
