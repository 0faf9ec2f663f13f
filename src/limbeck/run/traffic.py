"""What crossed between the clients of a regime and their server."""

from collections.abc import Mapping, Sequence

import torch

from limbeck.evidence.besides import Crossing, Traffic
from limbeck.regimes.plan import Plan
from limbeck.run.experiment import Experiment
from limbeck.training.workshop import Trained


def traffic_of(experiment: Experiment, plan: Plan, trained: Mapping[str, Sequence[Trained]]) -> Traffic | None:
    """Of the first seed of each arm with clients; None where the regime has none."""
    parts, splits = experiment.regime.parts(plan.at(experiment.seeds[0])), experiment.splits
    if not parts:
        return None
    commonest = None
    if splits.task.name == "classes":
        often = [float(torch.bincount(one.labels[one.rows]).max()) / len(one) for one in parts]
        commonest = sum(often) / len(often)
    arms = {
        name: tuple(
            Crossing(asked=one.asked, answered=one.answered, down=one.down, up=one.up) for one in seeds[0].turns
        )
        for name, seeds in trained.items()
        if seeds[0].turns
    }
    public = len(splits.train) - len(splits.train.labelled())
    return Traffic(rows=tuple(len(one) for one in parts), commonest=commonest, public=public, arms=arms)
