"""A student for each of several tasks: what one student of all is compared with, to tell whether sharing helps."""

from dataclasses import dataclass, field
from typing import Final

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.apart import Apart
from limbeck.regimes.budget import Arm, at_whole_budget
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime, Teaching, train
from limbeck.training.stage import Start
from limbeck.training.workshop import Trained

APART: Final = "apart"


@dataclass(frozen=True)
class OneEach:
    """Models of a task each, that are trained side by side."""

    starts: tuple[Start, ...] = field(repr=False)

    def module(self) -> nn.Module:
        """A new module; see `Apart`."""
        return Apart([start.module() for start in self.starts])


def one_each(regime: Teaching) -> Arm:
    """A student for each task, of the recipe's kind, with its teacher and as many steps as the regime's student has in all.

    They learn by the terms between answers, each by those of its own task: what others learn does not reach it, and its gradient
    is clipped by itself, so that it is trained as if it were alone.
    """

    def arm(plan: Plan) -> Regime[Trained]:
        plan = yield from plan.taught()
        task = plan.splits.task
        terms = tuple(
            term for term in plan.terms if term.task is not None and term.needs().student <= frozenset({"logits"})
        )
        if not terms:
            raise LimbeckError(
                "'evidence.apart' trains a student for each of several tasks, by the terms between answers, and there is "
                + (
                    "none: add labels or soft-targets, or leave it out."
                    if task.heads
                    else "one task alone: leave it out."
                )
            )
        starts = tuple(
            Start(plan.student, plan.seed, plan.context.about(only.task, only.classes))
            for only in map(plan.splits.only, task.heads)
        )
        teacher = yield from plan.labelled()
        return (yield from train(plan.stage("a student each", terms, teacher=teacher, start=OneEach(starts))))

    return at_whole_budget(arm, regime)
