"""Paired comparisons of arms, over seeds and over test examples.

Two things could have come out otherwise: the training (another seed) and the exam (other test examples). The t interval
speaks of the first, the bootstrap of the second, and a claim needs both. Neither may be certain only because nothing
happened to differ: equal seeds have the spread of rounding, and few differing examples an exact bound.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limbeck.evidence.records import Bootstrap, Difference, GapClosed, Keeps, McNemar, Range
from limbeck.evidence.resample import RESAMPLES, percentile_interval, resample, upper_bound
from limbeck.evidence.schema import ArmName, Step

Scores = NDArray[Any]  # [S, N], at most 1: how well the run of a seed does on an example; the teacher has S = 1
Right = NDArray[np.bool_]
FEW = 25  # examples that differ: below this, exact laws in place of approximate ones
CHAIN: tuple[ArmName, ...] = (
    "control",
    "pseudo_labels",
    "best_single",
    "soft_targets",
    "off_policy",
    "direct",
    "with_data",
    "fixed_teacher",
    "unkept",
    "distilled",
)


def difference(a: Sequence[float], b: Sequence[float], resolution: float = 0.0) -> Difference:
    """Mean of ``a - b`` over paired seeds, with Student's 95 % interval.

    ``resolution``: the step in which the values come (1/N for an accuracy over N examples; other scores may come in finer
    ones). If every seed gives exactly the same difference, the spread is not zero but below one step, and
    ``resolution / sqrt(12)``, the spread of rounding, is put in its place; 0 takes the zero at its word.
    """
    from scipy.stats import t

    each = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n, mean = len(each), float(each.mean())
    per_seed = tuple(float(one) for one in each)
    note: str | None = None
    if n < 2:
        note = "One seed: how much runs differ is unknown, so there is no interval over seeds."
        return Difference(mean=mean, ci95=None, sd=None, seeds=n, per_seed=per_seed, note=note)
    sd = float(each.std(ddof=1))
    if sd < 1e-12:
        sd = resolution / 12**0.5
        note = "Every seed gave exactly the same difference" + (
            "; the interval assumes the spread of rounding to one test example." if sd else "."
        )
    half = float(t.ppf(0.975, n - 1)) * sd / n**0.5
    return Difference(mean=mean, ci95=(mean - half, mean + half), sd=sd, seeds=n, per_seed=per_seed, note=note)


def item_bootstrap(a: Scores, b: Scores, resamples: int = RESAMPLES, seed: int = 0, bounded: bool = True) -> Bootstrap:
    """Interval of the mean score of ``a`` [S, N] minus that of ``b`` [S', N], each averaged over its seeds.

    A bootstrap can only draw what it has seen: if no example tells the two apart, its interval is one point, whether of
    ten examples or of ten thousand; if three do, in one direction, it leaves 0 out. Below `FEW` such examples each end
    is therefore at least as far out as the bound of `upper_bound`, for an example may differ by 1 on every seed. With
    one seed of right and wrong this is Clopper-Pearson if all differ in one direction, and leaves 0 out only if McNemar's
    exact test rejects. From `FEW` on the bootstrap holds what it says, and stands alone. So it does where scores are not
    ``bounded`` from 0 to 1, as no bound is known then.
    """
    gap = a.mean(0) - b.mean(0)
    # Rounding makes equal sums of thirds unequal; equal rows make the resampling cheap.
    apart = gap.round(12)
    low, high = percentile_interval(resample(apart[:, None], resamples, seed)[:, 0])
    telling = int(np.count_nonzero(apart))
    if telling < FEW and bounded:
        low, high = min(low, -upper_bound(-apart, 1.0, seed)), max(high, upper_bound(apart, 1.0, seed))
    return Bootstrap(
        mean=float(gap.mean()), ci95=(low, high), resamples=resamples, examples=gap.size, seed=seed, telling=telling
    )


def mcnemar(a: Right, b: Right, seed: int) -> McNemar:
    """McNemar's test for one seed: right or wrong ``a`` [N] and ``b`` [N] on the same examples (McNemar, 1947; Edwards, 1948)."""
    from scipy.stats import binomtest, chi2

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    exact = discordant < FEW
    if exact:
        p = float(binomtest(only_a, discordant).pvalue) if discordant else 1.0
    else:
        p = float(chi2.sf((abs(only_a - only_b) - 1) ** 2 / discordant, 1))
    return McNemar(seed=seed, only_distilled_right=only_a, only_control_right=only_b, p=p, exact=exact)


def gap_closed(
    teacher: Scores,
    control: Scores,
    distilled: Scores,
    resamples: int = RESAMPLES,
    seed: int = 0,
    bounded: bool = True,
    names: tuple[str, str] = ("teacher", "control"),
) -> GapClosed:
    """The share of the way from control [S, N] to teacher [1, N] that the distilled student [S, N] has come; or from any arm to
    another, ``names`` being the upper and the lower end. Either end may be of one run.

    The interval draws seeds and examples, each with replacement (Owen, 2007, "pigeonhole bootstrap"). Where few examples
    tell distilled from control, it is at least as wide as their exact bound as a share of the gap.
    """
    ahead = item_bootstrap(teacher, control, resamples, seed, bounded)
    if ahead.ci95[0] <= 0:
        worse = ahead.ci95[1] < 0
        reason = (
            f"the {names[0]} is worse than the {names[1]}"
            if worse
            else f"{' and '.join(names)} are not measurably apart"
        )
        return GapClosed(value=None, ci95=None, reason=reason)
    value = float((distilled.mean() - control.mean()) / (teacher.mean() - control.mean()))
    seeds = len(distilled)
    sides = np.cumsum([0, len(teacher), len(control), seeds])
    draws = resample(np.concatenate([teacher, control, distilled]).T, resamples, seed)
    chosen = np.random.default_rng(seed + 1).multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    of_teacher, of_control, of_distilled = (
        draws[:, first] if last - first == 1 else (draws[:, first:last] * chosen).sum(1)
        for first, last in pairwise(sides)
    )
    gap = of_teacher - of_control
    if (gap <= 0).mean() > 0.025:
        return GapClosed(value=value, ci95=None, reason="the gap is too small for an interval of its share")
    gained = of_distilled - of_control
    share = np.where(gap > 0, gained / np.where(gap > 0, gap, 1.0), np.sign(gained) * 1e9)
    low, high = percentile_interval(share)
    if max(abs(low), abs(high)) >= 1e6:
        return GapClosed(value=value, ci95=None, reason="the gap is too small for an interval of its share")
    gain = item_bootstrap(distilled, control, resamples, seed, bounded)
    if gain.telling is not None and gain.telling < FEW:
        low, high = min(low, gain.ci95[0] / ahead.mean), max(high, gain.ci95[1] / ahead.mean)
    return GapClosed(value=value, ci95=(low, high))


def keeps(
    teacher: Scores,
    distilled: Scores,
    margin: float = 0.02,
    resamples: int = RESAMPLES,
    seed: int = 0,
    bounded: bool = True,
) -> Keeps:
    """Whether the student [S, N] is no worse than the teacher [1, N] by more than ``margin``, an absolute score."""
    rows = teacher.shape[1]
    truth = float(teacher.mean())
    over_seeds = difference(distilled.mean(1).tolist(), [truth] * len(distilled), resolution=1 / rows)
    over_items = item_bootstrap(distilled, teacher, resamples, seed, bounded)
    interval = widest(over_seeds, over_items) or over_items.ci95
    basis: Literal["seeds and test examples", "test examples"] = (
        "seeds and test examples" if over_seeds.ci95 else "test examples"
    )
    return Keeps(
        ratio=float(distilled.mean()) / truth if truth > 0 else None,
        difference=over_seeds.mean,
        ci95=interval,
        margin=margin,
        non_inferior=interval[0] > -margin,
        basis=basis,
    )


def widest(over_seeds: Difference, over_items: Bootstrap) -> Range | None:
    """The wider end on each side: what a claim that must hold for other seeds and for other examples may use."""
    if over_seeds.ci95 is None:
        return None
    return min(over_seeds.ci95[0], over_items.ci95[0]), max(over_seeds.ci95[1], over_items.ci95[1])


def attribution(
    arms: Mapping[str, Mapping[int, Scores]],
    ingredients: str = "soft targets",
    resamples: int = RESAMPLES,
    seed: int = 0,
    bounded: bool = True,
) -> tuple[Step, ...]:
    """What each ingredient added, from the control upwards, over the seeds that both ends of a step share.

    ``arms``: by arm and seed, [N] how well each test example is done. ``ingredients``: what the objective has beyond
    hard answers, in words. Without an arm between control and distilled there is nothing to divide.
    """
    present = [name for name in CHAIN if name in arms]
    if len(present) < 3 or "control" not in arms:
        return ()
    names: dict[tuple[str, str], str] = {
        ("control", "pseudo_labels"): "hard pseudo-labels",
        ("control", "best_single"): "the best teacher alone",
        ("pseudo_labels", "best_single"): "the best teacher alone",
        ("best_single", "soft_targets"): "the other teachers",
        ("best_single", "distilled"): "the other teachers",
        ("best_single", "direct"): "the other teachers",
        ("control", "soft_targets"): "soft targets",
        ("pseudo_labels", "soft_targets"): "soft targets",
        ("soft_targets", "distilled"): "other terms or trainings",
        ("pseudo_labels", "distilled"): ingredients,
        ("control", "off_policy"): "the teacher, on given texts",
        ("off_policy", "distilled"): "the student's own texts",
        ("control", "direct"): ingredients,
        ("pseudo_labels", "direct"): ingredients,
        ("soft_targets", "direct"): "other terms or trainings",
        ("direct", "distilled"): "the teachers in between",
        ("control", "with_data"): ingredients,
        ("with_data", "distilled"): "made pictures in place of the data",
        ("control", "fixed_teacher"): ingredients,
        ("pseudo_labels", "fixed_teacher"): ingredients,
        ("fixed_teacher", "distilled"): "a teacher that learns to teach",
        ("control", "unkept"): ingredients,
        ("unkept", "distilled"): "what keeps from forgetting",
    }
    steps = []
    for source, target in pairwise(present):
        low, high = paired(arms[source], arms[target])
        if not len(low):
            continue
        steps.append(
            Step(
                step=names[source, target],
                source=source,
                target=target,
                difference=difference(high.mean(1).tolist(), low.mean(1).tolist(), resolution=1 / high.shape[1]),
                item_bootstrap=item_bootstrap(high, low, resamples, seed, bounded),
            )
        )
    return tuple(steps)


def paired(a: Mapping[int, Scores], b: Mapping[int, Scores]) -> tuple[Scores, Scores]:
    """Both arms' scores [S, N] over the seeds that both have."""
    shared = [seed for seed in a if seed in b]
    rows = next(iter(a.values())).size
    empty = np.zeros((0, rows))
    if not shared:
        return empty, empty
    return np.stack([a[seed] for seed in shared]), np.stack([b[seed] for seed in shared])
