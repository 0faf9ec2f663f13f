"""Without data: a generator of pictures learns beside the student (DAFL, Chen et al. 2019; ZSKT, Micaelli & Storkey 2019)."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import nn

from limbeck.config import choice
from limbeck.errors import LimbeckError
from limbeck.regimes.budget import Arm
from limbeck.regimes.imagined import arms_beside, demand, demand_no_labels, unmade
from limbeck.regimes.picture_pen import PicturePen
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Common, Regime, train
from limbeck.synthesis.games import Adversarial, Dafl
from limbeck.synthesis.norms import demand_norms
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

if TYPE_CHECKING:
    Games = Dafl | Adversarial
else:
    Games = choice(Dafl, Adversarial)


class Generator(Common):
    """In every step a generator makes new pictures, and the student learns the teacher's answers to them, from no training row.

    What the generator is after is its game. The teacher is asked live. Validation and test rows are the recipe's.
    """

    name: Literal["generator"] = "generator"
    game: Games = Dafl()
    """What pictures are to be: ``dafl``, such that the teacher is sure of them; or ``adversarial``, such that the student is
    unlike its teacher."""
    latent: Annotated[int, Field(ge=1)] = 100
    """Numbers of noise that a picture is made from."""
    width: Annotated[int, Field(ge=1)] = 32
    """The generator's channels at the whole size, twice as many before; 64 in the papers."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    """Of the generator's Adam; in the papers 1e-3 for colours, over more steps."""

    def pen(self, stage: Stage, student: nn.Module) -> PicturePen:
        """See `limbeck.training.stage.Writing`."""
        return PicturePen(self, stage)

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """``control`` and ``with_data``, students of the recipe's data; and the distilled student, which sees none of it."""
        return {**arms_beside(self), "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The one training."""
        return (self._stage(plan, "student"),)

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        return (yield from train(self._stage(plan, "distilled")))

    def _stage(self, plan: Plan, name: str) -> Stage:
        """Its examples are noise, in whose place the generator's pictures stand."""
        module, space = demand(plan, self.name)
        if self.game.statistics:
            demand_norms(module, self.name, "leave game.statistics out")
        demand_no_labels(plan, self.name)
        if plan.codec is not None:
            raise LimbeckError(
                "In the regime 'generator' the teacher is asked about pictures that are made while the student is trained, which "
                "no store can hold beforehand: leave teacher.store out."
            )
        examples = unmade(plan, space, plan.training.batch_size, labelled=False)
        return replace(plan.stage(name, teacher=plan.teacher, examples=examples), writing=self)
