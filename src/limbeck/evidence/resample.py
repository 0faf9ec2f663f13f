"""Resampling test examples with all their answers, so that whatever is paired stays paired."""

from typing import Any

import numpy as np

from limbeck.evidence.metrics import Floats

RESAMPLES = 10_000


def resample(values: Any, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means [resamples, K] of the columns of ``values`` [N, K] over examples drawn with replacement.

    Examples with equal rows are interchangeable, so drawing how often each distinct row comes up (a multinomial) is the
    same bootstrap (Efron, 1979), at a cost that does not grow with N: answers of a few runs make few distinct rows.
    """
    table = np.asarray(values, dtype=np.float64)
    rows, count = np.unique(table, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    share = count / count.sum()
    block = max(1, 10_000_000 // len(rows))  # bounds the memory where nearly all rows are distinct
    parts = []
    for start in range(0, resamples, block):
        drawn = generator.multinomial(len(table), share, size=min(block, resamples - start))
        parts.append(drawn @ rows / len(table))
    return np.concatenate(parts)


def percentile_interval(draws: Floats) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
