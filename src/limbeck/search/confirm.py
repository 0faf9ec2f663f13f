"""Whether the winner is better than the recipe's own settings: both in full, at fresh seeds, judged on validation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.data.measure import ACCURACY, Measure
from limbeck.evidence.comparison import difference, item_bootstrap
from limbeck.evidence.records import Bootstrap, Difference
from limbeck.evidence.verdict import decide, worse
from limbeck.recipe import Recipe
from limbeck.run.measure import answers_of
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
    scores: dict[str, list[NDArray[np.float64]]] = {"own": [], "winner": []}
    task, measure = bench.task, Measure.of(bench.task)
    for seed in seeds:
        for who, recipe in (("own", bench.recipe), ("winner", winner)):
            both[who].append(bench.trained(recipe, seed))
            scores[who].append(_scores(bench, recipe, both[who][-1]))
        shares = (measure.value(float(scores[who][-1].mean())) for who in ("own", "winner"))
        say("seed {}: {} with the recipe's own settings, {} with the winner's".format(seed, *shares))
    own, best = np.stack(scores["own"]), np.stack(scores["winner"])
    rows = own.shape[1]
    gap = difference(best.mean(1).tolist(), own.mean(1).tolist(), resolution=1 / rows)
    items = item_bootstrap(best, own, bounded=task.gives not in ("numbers", "tokens"))
    smallest = bench.recipe.evidence.smallest_effect
    found, said = _judged(gap, items, (float(own.mean()), float(best.mean())), smallest, measure)
    return {
        "better": found,
        "sentence": said,
        "seeds": list(seeds),
        "validation_examples": rows,
        task.measure: {who: [float(one.mean()) for one in several] for who, several in scores.items()},
        task.cost: {who: [one.metrics[task.cost] for one in several] for who, several in both.items()},
        "arms": {who: [one.key for one in several] for who, several in both.items()},
        "difference": gap.model_dump(mode="json"),
        "over_examples": items.model_dump(mode="json"),
    }


def _scores(bench: Bench, recipe: Recipe, trained: Trained) -> NDArray[np.float64]:
    plan = bench.plan(recipe)
    answers = answers_of(trained.module(), plan.splits.validation, "student", plan.device)
    found: NDArray[np.float64] = bench.task.scores(answers).numpy()
    return found


def _judged(
    gap: Difference, items: Bootstrap, scores: tuple[float, float], smallest: float, measure: Measure = ACCURACY
) -> tuple[str, str]:
    """``yes``, ``no`` or ``not settled``, and a sentence. Both intervals must agree, as for a verdict."""
    assert gap.ci95 is not None  # there are two seeds or more
    digits = measure.decimals(gap.mean, *gap.ci95, *items.ci95)
    shown = (
        f"trained in full at {gap.seeds} fresh seeds, {measure.name} on {items.examples:,} validation examples "
        f"is {measure.value(scores[1])} with its settings and {measure.value(scores[0])} with the recipe's own, "
        f"{measure.points(gap.mean, digits=digits)}{measure.unit} (95\N{NO-BREAK SPACE}% interval "
        f"{measure.span(gap.ci95, digits)} over seeds, {measure.span(items.ci95, digits)} over examples)"
    )
    verdict = decide(gap, items, smallest)
    if verdict == "helped":
        return "yes", f"The winner is better: {shown}."
    if worse(gap, items):
        return "no", f"The winner is worse: {shown}."
    if verdict == "did not help":
        below = f"{measure.amount(smallest)}{measure.unit} that would matter"
        return "no", f"The winner is no better: {shown}, so any gain is below the {below}."
    return "not settled", f"Whether the winner is better is not settled: {shown}."
