"""What crossed between the clients of a regime and their server."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from limbeck.data.examples import Examples
from limbeck.evidence.schema import Crossing, Traffic
from limbeck.regimes.plan import Plan
from limbeck.run.experiment import Experiment
from limbeck.training.workshop import Trained


@runtime_checkable
class Parted(Protocol):
    """A regime in which the labelled rows are with clients."""

    def parts(self, plan: Plan) -> tuple[Examples, ...]:
        """The rows of each."""
        ...


def traffic_of(experiment: Experiment, plan: Plan, trained: Mapping[str, Sequence[Trained]]) -> Traffic | None:
    """Of the first seed of each arm with clients; None where the regime has none."""
    regime = experiment.regime
    if not isinstance(regime, Parted):
        return None
    parts, splits = regime.parts(plan.at(experiment.seeds[0])), experiment.splits
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
