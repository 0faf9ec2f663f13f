"""Sequence-level distillation: what the teacher writes are the student's labels (Kim & Rush 2016, arXiv:1606.07947)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from limbeck.data.sifting import Filters
from limbeck.files import home
from limbeck.models.writers import Transformers, Writer
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Common, Regime, make_timed, train
from limbeck.regimes.writing import demand, written
from limbeck.teachers.author import Author, Wanted
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained


class SequenceLevel(Common):
    """The teacher goes on with the prompts of the training rows, and the student learns that in place of what stands there.

    Tokenizers may differ: it is the text that is handed over. What is learnt from it is the objective's: ``labels``, and whatever
    else it has, of which the teacher is asked as in the offline regime. Texts are written once and kept; one that did not end
    by itself is left out, for it would teach a wrong end. A served teacher writes where it is, as ``teacher.served.writes`` says.
    """

    name: Literal["sequence-level"] = "sequence-level"
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """How many of the teacher's tokens a text may have."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of drawing from the whole distribution; 0 takes the likeliest token each time."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Texts for each prompt; more than one are drawn, at a temperature above 0."""
    writer: Writer = Transformers()
    """Who writes for the teacher: ``transformers``, or ``vllm`` (see `limbeck.models.writers.Vllm`)."""
    filter: Filters = ()
    """Which of the teacher's texts are not learnt from, see ``data.filter``. ``rejected.jsonl``, beside what was written, lists
    them."""

    @property
    def wanted(self) -> Wanted:
        """What the teacher is to write after each prompt."""
        return Wanted(self.max_new_tokens, self.samples, self.temperature)

    def arms(self, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
        """The control, on what stands in the data, and the distilled student, on what the teacher wrote."""
        return {"control": self.control, "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The one training, on the texts of the data, as nothing is written yet.

        If the teacher shows what it thinks of its own texts alone, it writes those of one step.

        Raises:
            LimbeckError: rows are no prompts with continuations, or the teacher cannot write.
        """
        train, teacher = plan.splits.train, plan.teacher
        demand(train, teacher, self)
        asked = any(term.needs().teacher for term in plan.terms)
        if not (asked and isinstance(teacher, Author)) or teacher.provides.unseen or not teacher.provides.names:
            return (plan.stage("student", teacher=teacher),)
        count = min(plan.training.batch_size * plan.training.accumulate, len(train))
        (few, recalled), _ = written(
            replace(train, rows=train.rows[:count]), teacher, self, home() / "written", plan.device
        )
        every = replace(few, rows=few.rows.repeat(-(-count // len(few)))[:count])  # some may have no end
        return (plan.stage("student", teacher=recalled, examples=every),)

    def control(self, plan: Plan) -> Regime[Trained]:
        """The offline regime's: labels of the data, as many steps."""
        return (yield from Offline().control(plan))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        examples, teacher = yield from make_timed(
            "write",
            written,
            examples=plan.splits.train,
            teacher=plan.teacher,
            settings=self,
            root=home() / "written",
            device=plan.device,
            on_progress=plan.on_label,
        )
        plan = replace(plan, splits=replace(plan.splits, train=examples), teacher=teacher)
        asked = any(term.needs().teacher for term in plan.terms)
        observed = (yield from plan.labelled()) if asked else None
        return (yield from train(plan.stage("distilled", teacher=observed)))
