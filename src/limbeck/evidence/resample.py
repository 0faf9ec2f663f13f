"""Resampling test examples with all their answers, so that whatever is paired stays paired."""

from typing import Any

import numpy as np

from limbeck.evidence.exam import Floats

RESAMPLES = 10_000
MANY = 1000  # distinct rows: above this, drawing positions is quicker than drawing how often each comes up
DRAWS = 100_000  # of a bound: far from the middle a quantile needs more


def resample(values: Any, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means [resamples, K] of the columns of ``values`` [N, K] over examples drawn with replacement.

    Examples with equal rows are interchangeable, so drawing how often each distinct row comes up (a multinomial) is the
    same bootstrap (Efron, 1979), at a cost that does not grow with N: answers of a few runs make few distinct rows.
    """
    table = np.asarray(values, dtype=np.float64)
    rows, count = np.unique(table, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    share = count / count.sum()
    block = max(1, 10_000_000 // max(len(rows), table.size * (len(rows) > MANY)))  # bounds the memory
    parts = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if len(rows) > MANY:
            parts.append(table[generator.integers(0, len(table), (size, len(table)), dtype=np.int32)].mean(1))
        else:
            parts.append(generator.multinomial(len(table), share, size=size) @ rows / len(table))
    return np.concatenate(parts)


def upper_bound(values: Any, highest: float, seed: int = 0) -> float:
    """An upper 97.5 % bound for the mean of a variable of at most ``highest``, from few ``values`` [N].

    The bound of Gaffke (2005; Learned-Miller and Thomas, arXiv:1905.06208): the quantile of the mean under weights from
    a flat Dirichlet law over the values and one more at ``highest``, that is a Bayesian bootstrap (Rubin, 1981) which
    allows for what was not drawn, as a bootstrap of equal values cannot. On zeros and ones it is exactly Clopper and
    Pearson's (1934); on zeros alone 1 - 0.025^(1/N), about 3.7/N, the "rule of three" at 97.5 % (Hanley and
    Lippman-Hand, 1983). On +1, 0 and -1 it is above 0 unless McNemar's exact test rejects. That it covers every bounded
    law is a conjecture; tests/oracles adds up its coverage where it is used.
    """
    from scipy.stats import beta

    value, count = np.unique(np.append(np.asarray(values, dtype=np.float64), highest), return_counts=True)
    if len(value) == 2:  # the weight at the highest has a law with a name
        return float(value[0] + (highest - value[0]) * beta.ppf(0.975, count[1], count[0]))
    weights = np.random.default_rng(seed).gamma(count, size=(DRAWS, len(count)))
    return float(np.quantile(weights @ value / weights.sum(1), 0.975))


def percentile_interval(draws: Floats) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
