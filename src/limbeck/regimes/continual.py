"""Tasks one after another: the student learns some classes, then others, and is kept from forgetting the first."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from limbeck.config import Config
from limbeck.data.examples import Examples, copies
from limbeck.errors import LimbeckError
from limbeck.objective import EarlierClasses, Term
from limbeck.objective.schedules import Fixed
from limbeck.regimes.budget import Arm, at_whole_budget
from limbeck.regimes.elastic import Elastic, Ewc, fisher
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.projected import Projected, Projection
from limbeck.regimes.pupils import untrained
from limbeck.regimes.regime import Common, Regime, make, train
from limbeck.teachers.teacher import Teacher
from limbeck.training.order import derived
from limbeck.training.stage import Keeping, Stage
from limbeck.training.workshop import Trained


class Replay(Config):
    """Some rows of earlier tasks are learnt again beside those of the task: a sample of all rows so far, each as probable."""

    rows: Annotated[int, Field(ge=1)] = 200
    """How many rows are kept in all."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Their share of the rows of an epoch; they are repeated for that."""


class Distil(Config):
    """The student as it was before a task teaches it, of the classes that it knew then, on all rows of the task (learning
    without forgetting, Li & Hoiem 2016, arXiv:1606.09282). After each task the newest student takes its place.
    """

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Of soft targets among the earlier classes; T^2 is a part of them."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """T; the paper's."""


class Continual(Common):
    """The classes of the data come in groups, one training after another, and no training sees the rows of others.

    One head has all classes from the beginning (class-incremental). What is learnt in each task is the objective's, from labels
    alone; what keeps the student from forgetting are `Replay`, `Distil`, `Ewc` and `Projection`, one or several.
    """

    taught: ClassVar[bool] = False

    name: Literal["continual"] = "continual"
    tasks: Annotated[int, Field(ge=1)] | Annotated[tuple[tuple[str, ...], ...], Field(min_length=1)] = 5
    """The classes of each task by name, ``[[cat, dog], [bird, fish]]``, or how many groups they are divided into."""
    replay: Replay | None = None
    """Rows of earlier tasks are learnt again."""
    distil: Distil | None = None
    """The student before the task teaches it."""
    ewc: Ewc | None = None
    """Weights that mattered are held."""
    projection: Projection | None = None
    """Gradients may not point against those of remembered rows."""

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if not (self.replay or self.distil or self.ewc or self.projection):
            raise ValueError(
                "say what keeps the student from forgetting: replay, distil, ewc, projection, or several of them"
            )
        return self

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """The control, which nothing keeps from forgetting; one that learns all tasks at once; and the distilled student."""
        return {"control": self.naive, "joint": at_whole_budget(Offline().control, self), "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """A training for each task."""
        before = untrained(plan)
        return tuple(self._stage(plan, number, before) for number in range(len(self.groups(plan.splits.classes))))

    def exams(self, plan: Plan) -> dict[str, Examples]:
        """The test rows of each task, by the names of its classes: what is asked after every training."""
        test = plan.splits.test
        names = [[test.classes[one] for one in group] for group in self.groups(test.classes)]
        return {
            ", ".join(name): of_classes(test, group)
            for name, group in zip(names, self.groups(test.classes), strict=True)
        }

    def naive(self, plan: Plan) -> Regime[Trained]:
        """The same trainings one after another, and nothing else."""
        trained = None
        for number in range(len(self.groups(plan.splits.classes))):
            stage = self._plain(plan, number, "control")
            trained = yield from train(stage if trained is None else replace(stage, start=trained))
        assert trained is not None
        return trained

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        trained, teachers, known = None, list[Teacher](), dict[str, Tensor]()
        groups = self.groups(plan.splits.classes)
        for number, group in enumerate(groups):
            stage = self._stage(plan, number, teachers[-1] if teachers else None)
            if trained is not None:
                stage = replace(stage, start=trained, keeping=(*self._held(teachers, known), *stage.keeping))
            trained = yield from train(stage)
            teachers.append(trained.as_teacher(plan.asking))
            if self.ewc and number < len(groups) - 1:
                rows = of_classes(plan.splits.train.labelled(), group)
                module = trained.module()
                new = yield from make(
                    f"fisher of task {number + 1}", fisher, module=module, examples=rows, rows=self.ewc.rows
                )
                known = {
                    name: one + self.ewc.decay * known.get(name, torch.zeros_like(one)) for name, one in new.items()
                }
        assert trained is not None
        return trained

    def groups(self, classes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The classes of each task by number.

        Raises:
            LimbeckError: there are fewer classes than tasks, or a class is unknown, missing or named twice.
        """
        if isinstance(self.tasks, int):
            if self.tasks > len(classes):
                raise LimbeckError(
                    f"regime.tasks is {self.tasks}, and the data has {len(classes)} classes: a task needs one."
                )
            return tuple(tuple(part.tolist()) for part in torch.arange(len(classes)).tensor_split(self.tasks))
        named = [name for group in self.tasks for name in group]
        if sorted(named) != sorted(classes) or not all(self.tasks):
            wrong = (
                sorted({*named} ^ {*classes}) or [name for name in named if named.count(name) > 1] or ["an empty task"]
            )
            raise LimbeckError(
                f"regime.tasks must name every class of the data once, and does not with {wrong[0]!r}: the classes are "
                f"{', '.join(classes[:20])}."
            )
        return tuple(tuple(classes.index(name) for name in group) for group in self.tasks)

    def _demand(self, plan: Plan) -> None:
        if plan.teacher is not None or plan.teacher_stages:
            raise LimbeckError(f"In the regime {self.name!r} the student is its own teacher: leave 'teacher' out.")
        if plan.splits.task.name != "classes":
            raise LimbeckError(f"In the regime {self.name!r} tasks are groups of classes, and these data have none.")
        for term in plan.terms:
            if term.needs().teacher:
                raise LimbeckError(
                    f"In the regime {self.name!r} the objective says what a new task teaches, and {term.name!r} needs a teacher: "
                    "write 'objective: {labels: 1}', and 'distil' in the regime to learn from the student before the task."
                )

    def _plain(self, plan: Plan, number: int, name: str) -> Stage:
        """The training of one task, by itself."""
        self._demand(plan)
        groups = self.groups(plan.splits.classes)
        seen = [one for group in groups[: number + 1] for one in group]
        rows = of_classes(plan.splits.train.labelled(), groups[number])
        if not len(rows):
            raise LimbeckError(f"regime.tasks: task {number + 1} has no training row with a label.")
        stage = plan.stage(f"{name}, task {number + 1}", plan.without_teacher, examples=rows)
        return replace(stage, validation=of_classes(plan.splits.validation, seen))

    def _stage(self, plan: Plan, number: int, before: Teacher | None) -> Stage:
        """The training of one task with all that needs no earlier weights; ``before``: the student as it was."""
        stage, groups = self._plain(plan, number, "distilled"), self.groups(plan.splits.classes)
        if number == 0:
            return stage
        train_part = plan.splits.train.labelled()
        old = tuple(one for group in groups[:number] for one in group)
        terms: tuple[Term, ...] = stage.terms
        if self.replay:
            kept = sampled(of_classes(train_part, old), self.replay.rows, plan.seed)
            stage = replace(stage, examples=beside(stage.examples, kept, self.replay.share))
        if self.distil and len(old) > 1:  # among one class there is nothing to compare
            weight, temperature = Fixed(value=self.distil.weight), Fixed(value=self.distil.temperature)
            stage = replace(stage, teacher=before)
            terms = (*terms, EarlierClasses(weight=weight, temperature=temperature, classes=old))
        keeping: tuple[Keeping, ...] = ()
        if self.projection:
            keeping = (
                Projected(self.projection, sampled(of_classes(train_part, old), self.projection.rows, plan.seed)),
            )
        return replace(stage, terms=terms, keeping=keeping)

    def _held(self, teachers: Sequence[Teacher], known: dict[str, Tensor]) -> tuple[Keeping, ...]:
        """What holds the weights that the tasks before left."""
        module = teachers[-1].module
        if self.ewc is None or module is None:
            return ()
        anchor = {name: one.detach() for name, one in module.named_parameters()}
        return (Elastic(self.ewc, tuple(str(one.fingerprint) for one in teachers), anchor, known),)


def of_classes(examples: Examples, classes: Sequence[int]) -> Examples:
    """Those rows whose label is one of ``classes``."""
    labels = examples.labels[examples.rows]
    return replace(examples, rows=examples.rows[torch.isin(labels, torch.tensor(list(classes)))])


def sampled(examples: Examples, count: int, seed: int) -> Examples:
    """At most ``count`` rows, each as probable: those with the smallest of numbers that belong to rows and seed.

    What is kept of more rows is kept of fewer: a reservoir (Vitter 1985) without its order of arrival.
    """
    draw = torch.Generator().manual_seed(derived(seed, "replay"))
    numbers = torch.rand(len(examples.labels), generator=draw, dtype=torch.float64)[examples.rows]
    return replace(examples, rows=examples.rows[numbers.argsort(stable=True)[:count]].sort().values)


def beside(new: Examples, kept: Examples, share: float) -> Examples:
    """Rows of both, those of ``kept`` repeated until they are about ``share`` of all; each once at least."""
    return replace(new, rows=torch.cat([new.rows, kept.rows.repeat(copies(share, len(new), len(kept)))]))
