"""Which arms a recipe has, beside the student that it is about."""

from collections.abc import Callable

from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime
from limbeck.training.workshop import Trained


def arms(regime: Offline, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
    """The arms by their names in the evidence, in the order in which they are trained.

    ``pseudo_labels`` where rows without a label are used, ``soft_targets`` where the objective reads more than logits.
    """
    chosen: dict[str, Callable[[Plan], Regime[Trained]]] = {"control": regime.control}
    if len(plan.splits.train.labelled()) < len(plan.splits.train):
        chosen["pseudo_labels"] = regime.pseudo_labels
    reads = [term.needs().teacher for term in plan.terms]
    if any(read - {"logits"} for read in reads) and any(read == {"logits"} for read in reads):
        chosen["soft_targets"] = regime.soft_targets
    return {**chosen, "distilled": regime.distilled}
