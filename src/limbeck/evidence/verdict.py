"""The verdict, in a word and in a sentence.

Both 95 % intervals of distilled minus control must agree, the one over seeds and the one over test examples:

- ``helped``: both lower ends are above 0.
- ``did not help``: both upper ends are at most the smallest effect that would matter (harm included).
- ``cannot tell``: anything else; always with one seed, and without a control.

A student that learns without data is ``cannot tell`` too: its control has the data, and says what that is worth.
"""

from math import ceil, log

from limbeck.data.measure import ACCURACY, Measure
from limbeck.evidence.comparison import widest
from limbeck.evidence.records import Bootstrap, Difference, Verdict
from limbeck.evidence.schema import Evidence, Provenance

SMALLEST_EFFECT = 0.005
MOST_SEEDS = 100


def decide(difference: Difference | None, items: Bootstrap | None, smallest_effect: float = SMALLEST_EFFECT) -> Verdict:
    """The verdict by the rules above."""
    both = widest(difference, items) if difference and items else None
    if both is None:
        return "cannot tell"
    if both[0] > 0:
        return "helped"
    return "did not help" if both[1] <= smallest_effect else "cannot tell"


def worse(difference: Difference | None, items: Bootstrap | None) -> bool:
    """Whether the teacher surely did harm: both intervals lie below 0."""
    both = widest(difference, items) if difference and items else None
    return both is not None and both[1] < 0


def outcome(evidence: Evidence) -> str:
    """The verdict in a word or two; harm is not hidden in ``did not help``."""
    if evidence.without_data:
        return "without data"
    harmed = evidence.verdict == "did not help" and worse(evidence.difference, evidence.item_bootstrap)
    return "made it worse" if harmed else evidence.verdict


def who(provenance: Provenance | None, teacher: bool, kept: bool = False) -> str:
    """Whom the verdict is about: where students teach themselves or each other there is no teacher beside them. ``kept``: beside
    what a teacher says, something keeps the student from forgetting it, which its control lacks as well.
    """
    alone = kept or (provenance is not None and provenance.teacher_fingerprint is None and not teacher)
    return "the teaching" if alone and provenance and provenance.recipe_hash else "the teacher"


def sentence(
    difference: Difference | None,
    items: Bootstrap | None,
    scores: tuple[float, float] | None,
    smallest_effect: float = SMALLEST_EFFECT,
    why_no_control: str | None = None,
    measure: Measure = ACCURACY,
    who: str = "the teacher",
) -> str:
    """The verdict in one plain English sentence. ``scores``: of the control and of the distilled student. ``who``: see `who`."""
    if difference is None or items is None or scores is None:
        why = (why_no_control or "no control was trained").rstrip(".")
        return f"Whether {who} helped cannot be told, because there is nothing to compare with: {why}."
    seeds = "seed" if difference.seeds == 1 else "paired seeds"
    digits = measure.decimals(difference.mean, *(difference.ci95 or ()), *(items.ci95 if difference.ci95 else ()))
    moved = (
        f"{measure.name} on {items.examples:,} test examples went from {measure.value(scores[0])} without to "
        f"{measure.value(scores[1])} with {who}, {measure.points(difference.mean, digits=digits)}{measure.unit}"
    )
    if difference.ci95 is None:
        return (
            f"One seed cannot tell: {moved}, but with a single pair of runs it is unknown "
            "how much two runs differ by chance."
        )
    shown = (
        f"{moved} (95\N{NO-BREAK SPACE}% interval {measure.span(difference.ci95, digits)} over {difference.seeds} {seeds}, "
        f"{measure.span(items.ci95, digits)} over test examples)"
    )
    both = widest(difference, items)
    assert both is not None  # there is an interval over seeds
    verdict = decide(difference, items, smallest_effect)
    matter = f"{measure.amount(smallest_effect)}{measure.unit} that would matter"
    if verdict == "helped":
        little = f", though surely by less than the {matter}" if both[1] < smallest_effect else ""
        return f"{who.capitalize()} helped{little}: {shown}."
    if verdict == "did not help":
        if worse(difference, items):
            return f"{who.capitalize()} made the student worse: {shown}."
        return f"{who.capitalize()} did not help: {shown}, so any gain is below the {matter}."
    short = _short_of(difference, items, smallest_effect)
    return f"Not settled: {shown}, so neither a gain nor its absence is shown; {short}."


def without_data(
    difference: Difference, items: Bootstrap, scores: tuple[float, float], measure: Measure = ACCURACY
) -> str:
    """What a student reaches that saw no training example, in place of `sentence`. ``scores``: of the control, which learnt from
    the data's labels, and of the student. No verdict: without a teacher there would be nothing to learn from.
    """
    digits = measure.decimals(difference.mean, *(difference.ci95 or ()), *(items.ci95 if difference.ci95 else ()))
    share = f", {100 * scores[1] / scores[0]:.1f}\N{NO-BREAK SPACE}% of" if scores[0] > 0 else ", beside"
    seeds = "one pair of runs"
    if difference.ci95 is not None:
        seeds = (
            f"95\N{NO-BREAK SPACE}% interval {measure.span(difference.ci95, digits)} over {difference.seeds} paired seeds, "
            f"{measure.span(items.ci95, digits)} over test examples"
        )
    return (
        f"Without a training example the student's {measure.name} on {items.examples:,} test examples is "
        f"{measure.value(scores[1])}{share} the {measure.value(scores[0])} that the same student has from the data's labels: "
        f"{measure.points(difference.mean, digits=digits)}{measure.unit} ({seeds}). "
        "Whether the teacher helped is no question: with neither there is nothing to learn from."
    )


def _short_of(difference: Difference, items: Bootstrap, smallest_effect: float) -> str:
    """Which of the two intervals leaves the question open."""
    assert difference.ci95 is not None
    open_seeds = difference.ci95[0] <= 0 and difference.ci95[1] > smallest_effect
    open_items = items.ci95[0] <= 0 and items.ci95[1] > smallest_effect
    if open_seeds and _alike(difference):
        return "the test set is too small"  # the seeds agree; what is unknown is what a test example hides
    if open_seeds and not open_items:
        return "the seeds differ too much"
    if open_items and not open_seeds:
        return "the test set is too small"
    if open_seeds:
        return "the seeds differ too much and the test set is too small"
    return "the two intervals do not support the same answer"


def _alike(difference: Difference) -> bool:
    """Whether all seeds gave the same difference, so that their interval is that of rounding to a test example."""
    return difference.seeds > 1 and max(difference.per_seed) - min(difference.per_seed) < 1e-12


def detectable(sd: float, seeds: int) -> float:
    """The difference that ``seeds`` paired runs show four times in five (two-sided 5 %, power 80 %)."""
    from scipy.stats import t

    return float((t.ppf(0.975, seeds - 1) + t.ppf(0.8, seeds - 1)) * sd / seeds**0.5)


def seeds_needed(sd: float, effect: float) -> int | None:
    """The fewest seeds whose `detectable` difference is at most ``effect``; None above `MOST_SEEDS`."""
    return next((n for n in range(2, MOST_SEEDS + 1) if detectable(sd, n) <= effect), None)


def advice(
    difference: Difference | None,
    items: Bootstrap | None,
    smallest_effect: float = SMALLEST_EFFECT,
    measure: Measure = ACCURACY,
) -> str | None:
    """What would settle an open question; None where it is settled or cannot be settled by more of the same."""
    if difference is None or items is None or decide(difference, items, smallest_effect) != "cannot tell":
        return None
    if difference.sd is None:
        return "Run at least 3 seeds."
    parts = []

    def size(value: float) -> str:
        return measure.points(value, signed=False) + measure.unit

    effect = max(abs(difference.mean), smallest_effect)
    if difference.sd > 0 and not _alike(difference):
        shown = detectable(difference.sd, difference.seeds)
        parts.append(
            f"With {difference.seeds} seeds that differ this much, a true difference of {size(shown)} "
            "would be shown four times in five."
        )
        enough = seeds_needed(difference.sd, effect)
        if enough is None:
            parts.append(f"For {size(effect)} more than {MOST_SEEDS} seeds would be needed.")
        elif enough > difference.seeds:
            parts.append(f"For {size(effect)} about {enough} seeds would be needed.")
    if items.telling == 0:
        # as many as leave 1 - 0.025^(1/N), the exact bound, at the smallest effect
        enough = ceil(log(0.025) / log(1 - smallest_effect)) if 0 < smallest_effect < 1 else items.examples
        if enough > items.examples:
            parts.append(
                f"No test example tells the two apart. If that stays so, about {float(f'{enough:.2g}'):,.0f} test examples "
                f"would show that a gain is below {measure.amount(smallest_effect)}{measure.unit}."
            )
        return " ".join(parts) or None
    half = (items.ci95[1] - items.ci95[0]) / 2
    # 2.8 = 1.96 + 0.84: standard errors between zero and what is shown four times in five.
    examples = items.examples * (half / 1.96 * 2.8 / effect) ** 2
    if examples > 1.1 * items.examples:
        rounded = int(float(f"{examples:.1g}"))
        parts.append(f"The test set would need about {rounded:,} examples for {size(effect)}.")
    return " ".join(parts) or None
