"""After any other regime: a last training on labels, the same for every arm."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck.config import choice
from limbeck.data.batch import SUPERVISED
from limbeck.objective import Labels, Terms
from limbeck.regimes.assistants import Assistants
from limbeck.regimes.born_again import BornAgain
from limbeck.regimes.budget import Arm
from limbeck.regimes.deep_to_shallow import DeepToShallow
from limbeck.regimes.elastic import Pull
from limbeck.regimes.ema import Ema
from limbeck.regimes.meta_distil import MetaDistil
from limbeck.regimes.mutual import Mutual
from limbeck.regimes.offline import Offline
from limbeck.regimes.on_policy import OnPolicy
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Common, Regime, Teaching, train
from limbeck.regimes.sequence_level import SequenceLevel
from limbeck.regimes.snapshot import Snapshot
from limbeck.regimes.staged import Staged
from limbeck.regimes.theseus import Theseus
from limbeck.training.settings import Training
from limbeck.training.stage import Origin, Stage
from limbeck.training.workshop import Trained

if TYPE_CHECKING:
    Before = Teaching
else:
    Before = choice(
        *(Offline, Assistants, BornAgain, DeepToShallow, Ema, MetaDistil, Mutual, OnPolicy),
        *(SequenceLevel, Snapshot, Staged, Theseus),
    )


class FineTuned(Common):
    """What another regime gave goes on learning, from labels alone, in every arm alike.

    So what the arms differ by is still what the other regime says. Regularisation is the last training's: terms such as
    ``gradient-penalty``, ``training.max-norm`` and weight decay, ``elastic``, and the dropout that the student has.
    """

    name: Literal["fine-tuned"] = "fine-tuned"
    of: Before = Offline()
    """The regime that comes before, with its settings."""
    objective: Terms = (Labels(),)
    """What is learnt in the end: terms that read no teacher, ``labels`` among them. On the rows that have a label."""
    training: Training
    """Its budget and optimiser; the learning rate is usually a tenth of the recipe's or less."""
    elastic: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Half of this times the squared distance from the weights that the other regime gave is added to what is minimised (L2-SP,
    Li et al. 2018, arXiv:1802.01483); 0.01 to 1 there. null: nothing holds them."""

    @model_validator(mode="after")
    def _labels_alone(self) -> Self:
        for term in self.objective:
            if term.needs().teacher:
                raise ValueError(
                    f"the last training has no teacher, and the term {term.name!r} reads one: leave it out, or put it into the "
                    "recipe's objective"
                )
        if not any(term.mask == SUPERVISED for term in self.objective):
            raise ValueError("nothing is learnt from labels in the last training: add labels to its objective")
        return self

    @property
    def taught(self) -> bool:  # type: ignore[override]
        """Whether the other regime needs a teacher."""
        return self.of.taught

    @property
    def core(self) -> Teaching:
        """The other regime."""
        return self.of.core

    def making_seconds(self, plan: Plan, seeds: int) -> float:
        """The other regime's."""
        return self.of.making_seconds(plan, seeds)

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """Those of the other regime, each with the last training behind it."""
        return {name: self.ended(name, arm) for name, arm in self.of.arms(plan).items()}

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """With another budget for the last training, and for those that the other regime names."""
        return self.model_copy(update={"of": self.of.budgeted(change), "training": change(self.training)})

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The other regime's, and the last."""
        return (*self.of.stages(plan), self._stage(plan, "student"))

    def ended(self, name: str, arm: Arm) -> Arm:
        """An arm of the other regime, by its name in the evidence, with the last training behind it."""

        def whole(plan: Plan) -> Regime[Trained]:
            trained = yield from arm(plan)
            return (yield from train(self._stage(plan, name.replace("_", " "), trained)))

        return whole

    def _stage(self, plan: Plan, name: str, start: Origin | None = None) -> Stage:
        examples = plan.splits.train.labelled()
        own = replace(plan, training=self.training.resolved(len(examples)))
        stage = own.stage(f"{name}, fine-tuned", self.objective, examples=examples, start=start)
        return replace(stage, keeping=(Sp(self.elastic),)) if self.elastic else stage


@dataclass(frozen=True)
class Sp:
    """A pull to where a training starts; see `limbeck.training.stage.Keeping`."""

    weight: float

    def plain(self) -> dict[str, Any]:
        """The weight: the start is the stage's."""
        return {"l2-sp": self.weight}

    def part(self, stage: Stage, student: nn.Module) -> Pull:
        """What adds the gradient of the penalty. Weights that rest on a checkpoint are loaded later: these are the start's."""
        anchor: dict[str, Tensor] = {name: one.detach().clone() for name, one in student.named_parameters()}
        return Pull(anchor, {name: one.new_ones(()) for name, one in anchor.items()}, self.weight)
