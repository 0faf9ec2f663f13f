"""The offline regime: the teacher is ready, its outputs are written, then the student learns (Hinton et al. 2015)."""

from collections.abc import Callable
from typing import ClassVar, Literal, Self

from limbeck.config import Config
from limbeck.regimes.plan import Plan, hard_labels
from limbeck.regimes.regime import Regime, make, train
from limbeck.training.settings import Training
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained


class Offline(Config):
    """Train the teacher unless it is given, label the training part, train the student."""

    taught: ClassVar[bool] = True

    name: Literal["offline"] = "offline"

    def arms(self, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
        """``pseudo_labels`` where rows without a label are used, ``soft_targets`` where the objective reads more than logits."""
        chosen: dict[str, Callable[[Plan], Regime[Trained]]] = {"control": self.control}
        if plan.pseudo_labels:
            chosen["pseudo_labels"] = self.pseudo_labels
        reads = [term.needs().teacher for term in plan.terms]
        if any(read - {"logits"} for read in reads) and any(read == {"logits"} for read in reads):
            chosen["soft_targets"] = self.soft_targets
        return {**chosen, "distilled": self.distilled}

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """Itself: it names none."""
        return self

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The one training."""
        return (plan.stage("student", teacher=plan.teacher),)

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        teacher = yield from plan.labelled()
        return (yield from train(plan.stage("distilled", teacher=teacher)))

    def control(self, plan: Plan) -> Regime[Trained]:
        """The same student, initial weights, steps, optimiser and augmentation, without the teacher.

        It sees the rows that have a label: without a teacher the others say nothing, unless a term learns from all.
        """
        plan = yield from plan.taught()  # its layers may be where the student starts
        return (yield from train(plan.stage("control", plan.without_teacher)))

    def pseudo_labels(self, plan: Plan) -> Regime[Trained]:
        """The same student on all rows, the unlabelled ones with the same teacher's hard answers.

        Set beside the soft targets it says what helped: the further data, or the soft targets themselves.
        """
        plan = yield from plan.taught()
        teacher = yield from plan.labelled()
        labels = yield from make(
            "hard labels", hard_labels, examples=plan.splits.train, teacher=teacher, device=plan.device
        )
        examples = plan.splits.train.relabelled(labels)
        return (yield from train(plan.stage("hard pseudo-labels", plan.without_teacher, examples=examples)))

    def soft_targets(self, plan: Plan) -> Regime[Trained]:
        """The same student with the terms that read nothing but logits of the teacher: what the other terms add."""
        plan = yield from plan.taught()
        teacher = yield from plan.labelled()
        kept = tuple(term for term in plan.terms if term.needs().teacher <= {"logits"})
        return (yield from train(plan.stage("soft targets", kept, teacher=teacher)))
