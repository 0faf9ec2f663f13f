"""Generations: what has been taught teaches the next one (Furlanello et al. 2018, arXiv:1805.04770)."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from limbeck.regimes.budget import Arm
from limbeck.regimes.plan import Plan
from limbeck.regimes.pupils import arms_beside, demand_answers, ensemble_of, untrained
from limbeck.regimes.regime import Common, Regime, make, train
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.training.order import derived
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained


class BornAgain(Common):
    """Students in turn, each from new initial weights and taught by the one before; the first by the recipe's teacher, or where
    there is none by a student like it that learnt from labels alone.

    In the paper all of them have the teacher's architecture, the student is as large as its teacher, and what it gains it gains
    from another look at the same data.
    """

    taught: ClassVar[bool] = False

    name: Literal["born-again"] = "born-again"
    generations: Annotated[int, Field(ge=1, le=50)] = 2
    """How many students there are in turn; the last is delivered. With one this is the regime ``offline``."""
    learn_from: Literal["last", "all"] = "last"
    """Who teaches a generation: the one before it; or the mean of all before it, the first teacher included."""
    deliver: Literal["last", "ensemble"] = "last"
    """The last generation; or all of them, which answer by the mean of their probabilities and are as large as all of them."""

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """See `arms_beside`: the first teacher alone has as many steps as all generations together."""
        return {**arms_beside(self, plan), "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """A training for each generation."""
        self._demand(plan)
        teacher = plan.teacher or untrained(plan)
        before = [self._stage(plan, generation, teacher) for generation in range(1, self.generations)]
        return (*self._zeroth(plan), *before, plan.stage("student", teacher=teacher))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The last generation, or all of them."""
        plan = yield from plan.taught()
        self._demand(plan)
        for stage in self._zeroth(plan):
            trained = yield from train(stage)
            plan = replace(plan, teacher=trained.as_teacher(plan.asking))
        assert plan.teacher is not None
        teachers, students = [plan.teacher], list[Trained]()
        for generation in range(1, self.generations):
            teacher = yield from plan.labelled()
            trained = yield from train(self._stage(plan, generation, teacher))
            students.append(trained)
            teachers.append(trained.as_teacher(plan.asking))
            last: Teacher = teachers[-1]
            if self.learn_from == "all":
                last = EnsembleTeacher(teachers, task=plan.splits.task)
            plan = replace(plan, teacher=last)
        teacher = yield from plan.labelled()
        last_one = yield from train(plan.stage("distilled", teacher=teacher))
        if self.deliver == "last":
            return last_one
        told = {"students": (*students, last_one), "validation": plan.splits.validation, "device": plan.device}
        return (yield from make(f"all generations, seed {plan.seed}", ensemble_of, **told))

    def _zeroth(self, plan: Plan) -> tuple[Stage, ...]:
        """The student that learns from labels alone and teaches the first generation, where no teacher is given."""
        if plan.teacher is not None or plan.teacher_stages:
            return ()
        own = plan.at(derived(plan.seed, "generation", 0)).stage("generation 0", plan.without_teacher)
        return (replace(own, name=f"generation 0, seed {plan.seed}"),)

    def _demand(self, plan: Plan) -> None:
        if len(self._zeroth(plan)) + self.generations > 1:
            demand_answers(plan, self.name)

    def _stage(self, plan: Plan, generation: int, teacher: Teacher | None) -> Stage:
        """The training of a generation before the last, from weights and in an order of its own."""
        stage = plan.at(derived(plan.seed, "generation", generation)).stage("generation", teacher=teacher)
        return replace(stage, name=f"generation {generation}, seed {plan.seed}")
