"""Whether the winner is better than the recipe's own settings: both in full, at fresh seeds, judged on validation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.evidence.comparison import difference, item_bootstrap
from limbeck.evidence.schema import Bootstrap, Difference
from limbeck.evidence.verdict import amount, decide, decimals, percent, points, span, worse
from limbeck.recipe import Recipe
from limbeck.run.measure import logits_of
from limbeck.search.bench import SEED, Bench
from limbeck.training.workshop import Trained


def fresh(count: int) -> tuple[int, ...]:
    """So many seeds that the search has not used."""
    return tuple(range(SEED + 1, SEED + 1 + count))


def confirm(
    bench: Bench, winner: Recipe, seeds: Sequence[int], say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """The winner against the recipe's own settings at each of ``seeds``, as JSON types; ``sentence`` says it in one.

    ``say`` hears what came of each seed.
    """
    both: dict[str, list[Trained]] = {"own": [], "winner": []}
    right: dict[str, list[NDArray[np.bool_]]] = {"own": [], "winner": []}
    for seed in seeds:
        for who, recipe in (("own", bench.recipe), ("winner", winner)):
            both[who].append(bench.trained(recipe, seed))
            right[who].append(_right(bench, recipe, both[who][-1]))
        shares = (percent(float(right[who][-1].mean())) for who in ("own", "winner"))
        say("seed {}: {} with the recipe's own settings, {} with the winner's".format(seed, *shares))
    own, best = np.stack(right["own"]), np.stack(right["winner"])
    rows = own.shape[1]
    gap = difference(best.mean(1).tolist(), own.mean(1).tolist(), resolution=1 / rows)
    items = item_bootstrap(best, own)
    smallest = bench.recipe.evidence.smallest_effect
    found, said = _judged(gap, items, (float(own.mean()), float(best.mean())), smallest)
    return {
        "better": found,
        "sentence": said,
        "seeds": list(seeds),
        "validation_examples": rows,
        "accuracy": {who: [float(one.mean()) for one in several] for who, several in right.items()},
        "nll": {who: [one.metrics["nll"] for one in several] for who, several in both.items()},
        "arms": {who: [one.key for one in several] for who, several in both.items()},
        "difference": gap.model_dump(mode="json"),
        "over_examples": items.model_dump(mode="json"),
    }


def _right(bench: Bench, recipe: Recipe, trained: Trained) -> NDArray[np.bool_]:
    plan = bench.plan(recipe)
    validation = plan.splits.validation
    logits = logits_of(trained.module(), validation, "student", plan.device)
    return np.asarray(logits.argmax(1) == validation.labels[validation.rows].numpy())


def _judged(gap: Difference, items: Bootstrap, accuracies: tuple[float, float], smallest: float) -> tuple[str, str]:
    """``yes``, ``no`` or ``not settled``, and a sentence. Both intervals must agree, as for a verdict."""
    assert gap.ci95 is not None  # there are two seeds or more
    digits = decimals(gap.mean, *gap.ci95, *items.ci95)
    shown = (
        f"trained in full at {gap.seeds} fresh seeds, accuracy on {items.examples:,} validation examples is "
        f"{percent(accuracies[1])} with its settings and {percent(accuracies[0])} with the recipe's own, "
        f"{points(gap.mean, digits=digits)} points (95\N{NO-BREAK SPACE}% interval {span(gap.ci95, digits)} over seeds, "
        f"{span(items.ci95, digits)} over examples)"
    )
    verdict = decide(gap, items, smallest)
    if verdict == "helped":
        return "yes", f"The winner is better: {shown}."
    if worse(gap, items):
        return "no", f"The winner is worse: {shown}."
    if verdict == "did not help":
        return (
            "no",
            f"The winner is no better: {shown}, so any gain is below the {amount(smallest)} points that would matter.",
        )
    return "not settled", f"Whether the winner is better is not settled: {shown}."
