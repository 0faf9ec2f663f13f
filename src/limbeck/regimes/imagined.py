"""What regimes without data have in common: the teacher that they ask for, and whom their student is set beside."""

from dataclasses import replace
from typing import Final

import torch
from torch import nn

from limbeck.data.batch import SUPERVISED
from limbeck.data.examples import Examples
from limbeck.errors import LimbeckError
from limbeck.regimes.budget import Arm, at_whole_budget
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime, Teaching, train
from limbeck.synthesis.space import InputSpace
from limbeck.training.workshop import Trained

WITH_DATA: Final = "with_data"
"""The arm of a student like the distilled one that had the recipe's data."""


def demand(plan: Plan, regime: str) -> tuple[nn.Module, InputSpace]:
    """The teacher as a model, and what it reads.

    Raises:
        LimbeckError: there is no model here that a graph could go through, the data holds no images, or no term learns from a
            teacher.
    """
    space = InputSpace.of(plan.splits.train, f"The regime {regime!r}")
    if plan.splits.train.mixup:
        raise LimbeckError(
            f"The regime {regime!r} has its student learn from made pictures alone: leave data.mixup out."
        )
    if not any(term.needs().teacher for term in plan.terms):
        raise LimbeckError(
            f"In the regime {regime!r} nothing but the teacher can be learnt from, and no term of this objective does: add "
            "soft-targets, say."
        )
    module = plan.teacher.module if plan.teacher is not None else None
    if module is None:
        raise LimbeckError(
            f"In the regime {regime!r} pictures are made by following the gradient through the teacher to its input, so it must "
            "be a model that is here: give teacher.model, not stored, served or ONNX answers, and no ensemble."
        )
    return module, space


def unmade(plan: Plan, space: InputSpace, count: int, labelled: bool) -> Examples:
    """Noise in place of pictures that are not made yet: as many, and of the same size."""
    ids = torch.arange(count)
    levels = torch.cat([space.levels(space.noise(some)) for some in torch.split(ids, 256)])
    return space.examples(levels, plan.splits.train, ids % len(plan.splits.classes) if labelled else None)


def arms_beside(regime: Teaching) -> dict[str, Arm]:
    """Students of the recipe's own data, each with as many steps in one training as the regime has in all.

    ``control`` learns from its labels, ``with_data`` from the teacher's answers to it: what the distilled student had to do
    without. Who really has no data can train neither.
    """
    return {
        "control": at_whole_budget(Offline().control, regime),
        WITH_DATA: at_whole_budget(_with_data, regime),
    }


def _with_data(plan: Plan) -> Regime[Trained]:
    plan = yield from plan.taught()
    teacher = yield from plan.labelled()
    return (yield from train(plan.stage("with data", teacher=teacher)))


def on(plan: Plan, examples: Examples) -> Plan:
    """The plan with other rows to learn from; validation and test stay the recipe's."""
    return replace(plan, splits=replace(plan.splits, train=examples))


def demand_no_labels(plan: Plan, regime: str) -> None:
    """Refuses terms that would never speak.

    Raises:
        LimbeckError: a term learns from labels.
    """
    for term in plan.terms:
        if term.mask == SUPERVISED:
            raise LimbeckError(
                f"In the regime {regime!r} pictures have no labels, so the term {term.name!r} would never speak: leave it out; "
                "the teacher's answers say all that is known of them."
            )
