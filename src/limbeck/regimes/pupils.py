"""Students that teach."""

from limbeck.errors import LimbeckError
from limbeck.regimes.budget import Arm, at_whole_budget, earlier
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime, Teaching, train
from limbeck.signals.perturbed import is_logits
from limbeck.training.workshop import Trained


def demand_answers(plan: Plan, regime: str) -> None:
    """Refuses what a student cannot teach.

    Raises:
        LimbeckError: the objective reads layers of the first teacher, or the teacher reads the texts by other tokens.
    """
    for term in plan.terms:
        if layers := sorted(name for name in term.needs().teacher if not is_logits(name)):
            raise LimbeckError(
                f"In the regime {regime!r} students teach in their turn, and the term {term.name!r} reads {layers[0]!r} of the "
                "teacher, which need not be in them: compare answers."
            )
    texts = plan.splits.train.table.texts
    if texts is not None and texts.teacher is not None:
        raise LimbeckError(
            f"In the regime {regime!r} students teach in their turn, and here the teacher reads the texts by other tokens than "
            "they do: give both one tokenizer (leave out data.tokenizer), or choose another regime."
        )


def arms_beside(regime: Teaching, plan: Plan) -> dict[str, Arm]:
    """The arms of the offline regime but the distilled student, each with as many steps in one training as the regime has in all.

    ``direct``, where the regime has other teachers in between: the student of the first one all that time.
    """
    found = {name: at_whole_budget(arm, regime) for name, arm in Offline().arms(plan).items() if name != "distilled"}
    return found | ({"direct": at_whole_budget(_directly, regime)} if earlier(regime.stages(plan)) else {})


def _directly(plan: Plan) -> Regime[Trained]:
    plan = yield from plan.taught()
    teacher = yield from plan.labelled()
    return (yield from train(plan.stage("direct", teacher=teacher)))
