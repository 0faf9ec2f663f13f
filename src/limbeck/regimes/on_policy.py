"""On-policy distillation: the student writes, the teacher marks (GKD, Agarwal et al. 2024, arXiv:2306.13649)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from limbeck.data.batch import WRITTEN
from limbeck.errors import LimbeckError
from limbeck.models.writers import Transformers, Writer
from limbeck.objective.schedules import Fixed
from limbeck.objective.temperatures import Share
from limbeck.objective.term import Term
from limbeck.regimes.offline import Offline
from limbeck.regimes.pen import TextPen
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Common, Regime, train
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained


class OnPolicy(Common):
    """The student is trained on texts that it writes itself while it is trained, and on those of the data.

    Where it goes wrong by itself the teacher says how to go on, which it never does on texts of others. Such a text goes on from
    a row's prompt. What is learnt from it is the objective's: any ``divergence`` (GKD), or divergences that say of which texts
    they are (DistiLLM-2, MiniLLM). ``labels`` learn from texts that the student did not write. The teacher is asked live.
    """

    name: Literal["on-policy"] = "on-policy"
    share: Share = Fixed(value=0.5)
    """How probable it is that the student writes: a number from 0 to 1, or a schedule. GKD's lambda."""
    teacher_share: Share = Fixed(value=0.0)
    """How probable it is that the teacher writes; ``labels`` learn from that too (Kim & Rush 2016). The rest is data."""
    each: Literal["step", "text"] = "step"
    """What that is drawn for: a ``step``, all of whose texts are then by one hand, which takes the least time; or each
    ``text``, so that every step has all kinds, as terms that tell them apart need it."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the writing; the whole distribution is drawn from."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """After so many tokens a text is cut off; it has no end then."""
    opening: Annotated[int, Field(ge=1)] = 1
    """The least tokens of a row that a text goes on from. Prompts are taken whole; of running text there is none."""
    mixed: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of the teacher's distribution in what the student's tokens are drawn from, against texts that run away; 0.2 in
    MiniLLM (Gu et al. 2024, arXiv:2306.08543). The teacher runs at every token."""

    writer: Writer = Transformers()
    """Who writes for the student: ``transformers``, or ``vllm`` (see `limbeck.models.writers.Vllm`)."""

    @model_validator(mode="after")
    def _shares_of_one(self) -> Self:
        if max(self.share.turns) + max(self.teacher_share.turns) > 1:
            raise ValueError("share and teacher-share are shares of one whole: together they are at most 1")
        if self.mixed and not self.writer.mixes:
            raise ValueError(
                "with 'mixed' two models write each token together, which only transformers does: leave 'writer' out"
            )
        return self

    def pen(self, stage: Stage, student: nn.Module) -> TextPen:
        """See `limbeck.training.stage.Writing`."""
        return TextPen(self, stage, student)

    def arms(self, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
        """The control, ``off_policy`` where the objective can be learnt on texts that are given, and the distilled student."""
        off = {"off_policy": self.off_policy} if any(term.needs().teacher for term in off_policy(plan.terms)) else {}
        return {"control": self.control, **off, "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The one training."""
        return (self._writing(plan, "student"),)

    def control(self, plan: Plan) -> Regime[Trained]:
        """The offline regime's: labels of the data, as many steps."""
        return (yield from Offline().control(plan))

    def off_policy(self, plan: Plan) -> Regime[Trained]:
        """The same student and steps on the texts of the data alone: what writing adds. Terms of given texts have all of them,
        others of written texts are left out.
        """
        plan = yield from plan.taught()
        return (yield from train(plan.stage("off-policy", off_policy(plan.terms), teacher=plan.teacher)))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        return (yield from train(self._writing(plan, "distilled")))

    def _writing(self, plan: Plan, name: str) -> Stage:
        if plan.codec is not None:
            raise LimbeckError(
                "In the regime 'on-policy' the teacher is asked about texts that are written while the student is trained, which "
                "no store can hold beforehand: leave teacher.store out."
            )
        return replace(plan.stage(name, teacher=plan.teacher), writing=self)


def off_policy(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """What is left of an objective where nobody writes."""
    return tuple(term for term in terms if term.mask != WRITTEN)
