"""Uniform numbers that are a pure function of what they are drawn for: no batch, no order, no state."""

import numpy as np
from numpy.typing import NDArray

from limbeck.teachers.store.codec import Ints

_STEP = np.uint64(0x9E3779B97F4A7C15)
_STIR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(seed: int, ids: Ints, views: Ints, positions: Ints, count: int) -> NDArray[np.float64]:
    """Ascending numbers in [0, 1), [N, count], each row for one (id, view, position), int64 [N] each.

    The generator is splitmix64 (Steele, Lea and Flood 2014), its state a hash of the four numbers.
    """
    with np.errstate(over="ignore"):
        state = _mixed(np.full(len(ids), seed % 2**64, dtype=np.uint64))
        for part in (ids, views, positions):
            state = _mixed(state + part.astype(np.uint64))
        states = state[:, None] + np.arange(count, dtype=np.uint64) * _STEP
        bits = _mixed(states) >> np.uint64(11)
    return np.sort(bits * np.float64(2.0**-53), axis=1)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + _STEP
    state = (state ^ (state >> np.uint64(30))) * _STIR[0]
    state = (state ^ (state >> np.uint64(27))) * _STIR[1]
    found: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return found
