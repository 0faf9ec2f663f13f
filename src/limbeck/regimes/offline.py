"""The offline regime: the teacher is ready, its outputs are written, then the student learns (Hinton et al. 2015)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from limbeck.data.asked import asked
from limbeck.data.examples import Examples
from limbeck.objective import Term
from limbeck.regimes.plan import Plan, hard_labels
from limbeck.regimes.regime import Common, Regime, make, train
from limbeck.teachers.member import OneOf
from limbeck.teachers.teacher import Provides, Teacher
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained


class Offline(Common):
    """Train the teacher unless it is given, label the training part, train the student."""

    name: Literal["offline"] = "offline"

    def arms(self, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
        """``pseudo_labels`` where rows without a label are used, ``best_single`` where several teachers are learnt from by their
        logits, ``soft_targets`` where the objective reads more than those.
        """
        chosen: dict[str, Callable[[Plan], Regime[Trained]]] = {"control": self.control}
        if plan.pseudo_labels:
            chosen["pseudo_labels"] = self.pseudo_labels
        reads = [term.needs().teacher for term in plan.terms]
        answers = any(term.needs().teacher for term in _by_answers(plan))
        known = plan.teacher.provides if plan.teacher else Provides()
        if known.interchangeable and known.unseen and answers:
            chosen["best_single"] = self.best_single
        if answers and any(read - {"logits"} for read in reads):
            chosen["soft_targets"] = self.soft_targets
        return {**chosen, "distilled": self.distilled}

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
        examples = plan.every.relabelled(labels)
        return (yield from train(plan.stage("hard pseudo-labels", plan.without_teacher, examples=examples)))

    def best_single(self, plan: Plan) -> Regime[Trained]:
        """The same student taught by the one of several teachers that is best on validation: what the others add."""
        plan = yield from plan.taught()
        name = yield from make(
            "the best teacher", best_of, teacher=plan.teacher, validation=plan.splits.validation, device=plan.device
        )
        assert plan.teacher is not None
        plan = replace(plan, teacher=OneOf(plan.teacher, name), terms=_by_answers(plan))
        teacher = yield from plan.labelled()
        return (yield from train(plan.stage("best teacher alone", teacher=teacher)))

    def soft_targets(self, plan: Plan) -> Regime[Trained]:
        """The same student with the terms that read nothing but logits of the teacher: what the other terms add."""
        plan = yield from plan.taught()
        kept = _by_answers(plan)
        teacher = yield from replace(plan, terms=(*plan.terms, *kept)).labelled()
        return (yield from train(plan.stage("soft targets", kept, teacher=teacher)))


def _by_answers(plan: Plan) -> tuple[Term, ...]:
    """The terms that read nothing but a single teacher's logits, or what stands for them."""
    return tuple(one for term in plan.terms if (one := term.by_answers()) is not None)


def best_of(teacher: Teacher, validation: Examples, device: str) -> str:
    """Which of several teachers does best on the examples of validation; of equals the first."""
    own = validation.as_read_by("teacher")

    def score(name: str) -> float:
        one = OneOf(teacher, name)
        found = asked(lambda batch: one.observe(batch, frozenset({"logits"}))["logits"], own, device)
        return float(own.task.scores(found).mean())

    return max(teacher.provides.members, key=score)
