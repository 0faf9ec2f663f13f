"""Tasks one after another: the student learns some classes, then others, and is kept from forgetting the first."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Final, Literal, Self

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
from limbeck.teachers.beside import Beside
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.member import OneOf
from limbeck.teachers.teacher import Teacher
from limbeck.teachers.weighing import ByClass
from limbeck.training.order import derived
from limbeck.training.stage import Keeping, Stage
from limbeck.training.workshop import Trained

BEFORE: Final = "before"
"""What the student before a task is called where it teaches beside another teacher."""


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

    One head has all classes from the beginning (class-incremental). What is learnt in each task is the objective's: from labels
    alone, or from a teacher, or from several of whom each is there for its own task, in their order; rows that are replayed are
    taught by the teacher of their task, from its stored outputs. What keeps the student from forgetting are `Replay`, `Distil`,
    `Ewc` and `Projection`, one or several.
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
        """The control, which nobody teaches and nothing keeps from forgetting; one that learns all tasks at once; where somebody
        teaches, ``unkept``, which nothing keeps either; and the distilled student.
        """
        joint = at_whole_budget(Offline().control, self)
        taught = {"unkept": self.unkept} if plan.teacher is not None or plan.teacher_stages else {}
        return {"control": self.naive, "joint": joint, **taught, "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """A training for each task."""
        before, teacher = untrained(plan), self._teacher(plan)
        count = len(self.groups(plan.splits.classes))
        return tuple(self._stage(plan, number, teacher, before) for number in range(count))

    def exams(self, plan: Plan) -> dict[str, Examples]:
        """The test rows of each task, by the names of its classes: what is asked after every training."""
        test = plan.splits.test
        names = [[test.classes[one] for one in group] for group in self.groups(test.classes)]
        return {
            ", ".join(name): test.of_classes(group)
            for name, group in zip(names, self.groups(test.classes), strict=True)
        }

    def naive(self, plan: Plan) -> Regime[Trained]:
        """The same trainings one after another from labels, and nothing else."""
        plan = yield from plan.taught()  # its layers may be where the student starts
        return (yield from self._one_by_one(plan, "control", None))

    def unkept(self, plan: Plan) -> Regime[Trained]:
        """The same trainings with the same teachers, and nothing that keeps the student from forgetting."""
        plan = yield from plan.taught()
        return (yield from self._one_by_one(plan, "nothing kept", (yield from self._labelled(plan))))

    def _one_by_one(self, plan: Plan, name: str, teacher: Teacher | None) -> Regime[Trained]:
        trained = None
        for number in range(len(self.groups(plan.splits.classes))):
            stage = self._plain(plan, number, name, teacher)
            trained = yield from train(stage if trained is None else replace(stage, start=trained))
        assert trained is not None
        return trained

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        teacher = yield from self._labelled(plan)
        trained, teachers, known = None, list[Teacher](), dict[str, Tensor]()
        groups = self.groups(plan.splits.classes)
        for number, group in enumerate(groups):
            stage = self._stage(plan, number, teacher, teachers[-1] if teachers else None)
            if trained is not None:
                stage = replace(stage, start=trained, keeping=(*self._held(teachers, known), *stage.keeping))
            trained = yield from train(stage)
            teachers.append(trained.as_teacher(plan.asking))
            if self.ewc and number < len(groups) - 1:
                rows = plan.splits.train.labelled().of_classes(group)
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

    def _teacher(self, plan: Plan) -> Teacher | None:
        """Who teaches: one for all tasks, or of several each where its task's rows are asked about; None: nobody but labels."""
        known = plan.teacher
        if known is None or len(names := list(known.provides.members)) < 2:
            return known
        groups = self.groups(plan.splits.classes)
        if len(names) != len(groups) or not known.provides.interchangeable:
            raise LimbeckError(
                f"In the regime {self.name!r} several teachers are one for each task, in their order: there are {len(names)} "
                f"({', '.join(names)}) and {len(groups)} tasks."
            )
        weighing = ByClass(groups, plan.splits.train)
        return EnsembleTeacher([OneOf(known, name) for name in names], weighing, task=plan.splits.task, names=names)

    def _labelled(self, plan: Plan) -> Regime[Teacher | None]:
        """The teachers, their outputs for all rows that are learnt from stored."""
        teacher = self._teacher(plan)
        if teacher is None:
            return None
        splits = replace(plan.splits, train=plan.splits.train.labelled())
        return (yield from replace(plan, teacher=teacher, splits=splits).labelled())

    def _demand(self, plan: Plan, taught: bool) -> None:
        if plan.splits.task.name != "classes":
            raise LimbeckError(f"In the regime {self.name!r} tasks are groups of classes, and these data have none.")
        needy = [term.name for term in plan.terms if term.needs().teacher]
        if needy and not taught:
            raise LimbeckError(
                f"In the regime {self.name!r} the objective says what a new task teaches, and {needy[0]!r} needs a teacher: "
                "give one; or write 'objective: {labels: 1}', and 'distil' in the regime to learn from the student before the "
                "task."
            )
        if taught and not needy:
            raise LimbeckError(
                f"In the regime {self.name!r} a teacher is heard through the objective, and none of its terms needs one: add "
                "soft-targets, say, or leave 'teacher' out. The student before each task is no 'teacher', but 'distil'."
            )

    def _plain(self, plan: Plan, number: int, name: str, teacher: Teacher | None) -> Stage:
        """The training of one task, by itself; ``teacher``: None for a student that learns from labels alone."""
        self._demand(plan, plan.teacher is not None or bool(plan.teacher_stages))
        groups = self.groups(plan.splits.classes)
        seen = [one for group in groups[: number + 1] for one in group]
        rows = plan.splits.train.labelled().of_classes(groups[number])
        if not len(rows):
            raise LimbeckError(f"regime.tasks: task {number + 1} has no training row with a label.")
        terms = plan.terms if teacher else plan.without_teacher
        stage = plan.stage(f"{name}, task {number + 1}", terms, teacher, rows)
        return replace(stage, validation=plan.splits.validation.of_classes(seen))

    def _stage(self, plan: Plan, number: int, teacher: Teacher | None, before: Teacher | None) -> Stage:
        """The training of one task with all that needs no earlier weights; ``before``: the student as it was."""
        stage, groups = self._plain(plan, number, "distilled", teacher), self.groups(plan.splits.classes)
        if number == 0:
            return stage
        train_part = plan.splits.train.labelled()
        old = tuple(one for group in groups[:number] for one in group)
        terms: tuple[Term, ...] = stage.terms
        if self.replay:
            kept = sampled(train_part.of_classes(old), self.replay.rows, plan.seed)
            stage = replace(stage, examples=beside(stage.examples, kept, self.replay.share))
        if self.distil and len(old) > 1:  # among one class there is nothing to compare
            assert before is not None
            weight, temperature = Fixed(value=self.distil.weight), Fixed(value=self.distil.temperature)
            said, both = (
                ("logits", before) if teacher is None else (f"{BEFORE}.logits", Beside(teacher, BEFORE, before))
            )
            stage = replace(stage, teacher=both)
            terms = (*terms, EarlierClasses(weight=weight, temperature=temperature, classes=old, said=said))
        keeping: tuple[Keeping, ...] = ()
        if self.projection:
            keeping = (
                Projected(self.projection, sampled(train_part.of_classes(old), self.projection.rows, plan.seed)),
            )
        return replace(stage, terms=terms, keeping=keeping)

    def _held(self, teachers: Sequence[Teacher], known: dict[str, Tensor]) -> tuple[Keeping, ...]:
        """What holds the weights that the tasks before left."""
        module = teachers[-1].module
        if self.ewc is None or module is None:
            return ()
        anchor = {name: one.detach() for name, one in module.named_parameters()}
        return (Elastic(self.ewc, tuple(str(one.fingerprint) for one in teachers), anchor, known),)


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
