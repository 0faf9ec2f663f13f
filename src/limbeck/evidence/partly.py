"""Parts of the exam that are judged by themselves: tasks, groups of examples."""

from collections.abc import Mapping

import numpy as np

from limbeck.data.measure import Measure
from limbeck.evidence.besides import Gain
from limbeck.evidence.comparison import Scores, difference, item_bootstrap, paired
from limbeck.evidence.verdict import decide, worse

_WORDS = {"helped": "better", "did not help": "no better", "cannot tell": "cannot tell"}
BySeed = Mapping[int, Scores]
"""By seed, [N] how well each example of the part is done."""


def gain(ours: BySeed, theirs: BySeed, smallest_effect: float, resamples: int, seed: int, bounded: bool = True) -> Gain:
    """How much better ``ours`` are, by the rule of the verdict."""
    low, high = paired(theirs, ours)
    gap = difference(high.mean(1).tolist(), low.mean(1).tolist(), resolution=1 / high.shape[1])
    items = item_bootstrap(high, low, resamples, seed, bounded)
    return Gain(verdict=decide(gap, items, smallest_effect), difference=gap, item_bootstrap=items)


def means(scores: Mapping[str, BySeed]) -> tuple[dict[str, float], dict[str, float | None]]:
    """By arm the mean over seeds, and the sample standard deviation, None with one seed."""
    each = {arm: [float(one.mean()) for one in seeds.values()] for arm, seeds in scores.items()}
    spreads = {arm: float(np.std(one, ddof=1)) if len(one) > 1 else None for arm, one in each.items()}
    return {arm: float(np.mean(one)) for arm, one in each.items()}, spreads


def score_cell(
    scores: Mapping[str, float], sd: Mapping[str, float | None], arm: str, measure: Measure
) -> tuple[str, str | None] | None:
    """An arm's mean and its spread, in words."""
    if arm not in scores:
        return None
    spread = sd.get(arm)
    return measure.value(scores[arm]), None if spread is None else measure.spread(spread)


def word(one: Gain) -> str:
    """The verdict on a part; harm is not hidden in ``no better``."""
    return "worse" if worse(one.difference, one.item_bootstrap) else _WORDS[one.verdict]


def gain_cell(one: Gain | None, measure: Measure) -> tuple[str, str] | None:
    """The verdict on a part, and the difference, in words."""
    return None if one is None else (word(one), measure.gained(one.difference.mean, one.difference.ci95))


def told(one: Gain, measure: Measure) -> str:
    """The same in one line."""
    return f"{measure.gained(one.difference.mean, one.difference.ci95)}: {word(one)}"
