"""Paired comparisons of many methods with one, and what is left of them when all are looked at together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from limbeck.evidence.comparison import difference, item_bootstrap

Right = NDArray[np.bool_]


def compare(ours: Right, other: Right) -> dict[str, Any]:
    """Accuracy of ``ours`` [S, N] less ``other`` [S, N]: mean, both 95 % intervals, and the larger of the two p-values.

    A gain must hold over seeds (paired t-test) and over test examples (z-test of each example's mean over seeds), so the
    p-value of the claim is the larger one (an intersection-union test: Berger 1982).
    """
    seeds = difference(ours.mean(1).tolist(), other.mean(1).tolist(), 1 / ours.shape[1])
    items = item_bootstrap(ours, other)
    return {
        "mean": seeds.mean,
        "seeds": seeds.ci95,
        "items": items.ci95,
        "p": max(_over_seeds(seeds.mean, seeds.sd, seeds.seeds), _over_items(ours, other)),
    }


def _over_seeds(mean: float, sd: float | None, count: int) -> float:
    if sd is None or sd == 0:
        return 1.0
    return float(2 * stats.t.sf(abs(mean) / (sd / count**0.5), count - 1))


def _over_items(ours: Right, other: Right) -> float:
    gap = ours.mean(0) - other.mean(0)
    spread = gap.std(ddof=1) / len(gap) ** 0.5
    return float(2 * stats.norm.sf(abs(gap.mean()) / spread)) if spread > 0 else 1.0


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number (Holm 1979): the chance of any false claim among them stays below the level."""
    corrected, running = dict[str, float](), 0.0
    for place, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(values) - place) * p))
        corrected[name] = running
    return corrected
