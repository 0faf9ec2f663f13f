"""Students that teach."""

from limbeck.errors import LimbeckError
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime, train
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


def directly(plan: Plan) -> Regime[Trained]:
    """The student of the first teacher alone: what others in between have to beat."""
    plan = yield from plan.taught()
    teacher = yield from plan.labelled()
    return (yield from train(plan.stage("direct", teacher=teacher)))
