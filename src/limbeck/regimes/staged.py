"""Several trainings one after another: the route of TinyBERT, MobileBERT and MiniLM, and of FitNets before them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import nn

from limbeck.config import Config
from limbeck.data.batch import NO_LABEL, SUPERVISED
from limbeck.data.examples import Examples
from limbeck.data.sources import Source
from limbeck.data.text import TextTable
from limbeck.errors import DataError, LimbeckError
from limbeck.models.identity import of_module
from limbeck.models.specs import ModelSpec, Spec, build
from limbeck.objective import Terms
from limbeck.regimes.budget import at_whole_budget
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Common, Regime, train
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.member import OneOf
from limbeck.teachers.teacher import Teacher
from limbeck.training.settings import Training
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

if TYPE_CHECKING:
    ModelChoice = Spec
else:
    ModelChoice = ModelSpec

_TEACHER_SEED = 0
_NAME = r"^[a-z][a-z0-9 -]*$"


class Part(Config):
    """One training before the recipe's own. What is left out is as in the recipe."""

    name: Annotated[str, Field(pattern=_NAME)]
    """What it is called."""
    objective: Terms
    """What the student learns in it."""
    training: Training | None = None
    """Its budget and optimiser."""
    texts: Source | None = None
    """Other texts to learn from, without their labels, such as running text; in place of the training rows."""
    teacher: ModelChoice | None = None
    """Another teacher, such as the model before it was fine-tuned; it is taken as it is."""
    members: tuple[str, ...] = ()
    """Of a teacher that consists of several, those who teach in it, by their names, all counting alike; none named: all."""
    frozen: tuple[str, ...] = ()
    """Patterns of parameters that stay as they are, such as ``*.embeddings.*``."""
    store: bool = False
    """Whether the teacher's outputs are stored first: layers and attention maps take much room, and are best asked live."""

    @model_validator(mode="after")
    def _one_school(self) -> Self:
        if self.teacher is not None and self.members:
            raise ValueError("teacher and members both say who teaches: give one of them")
        return self

    def plan(self, plan: Plan) -> Plan:
        """The plan of this training, its layers found.

        Raises:
            LimbeckError: the texts cannot be read, the teacher cannot be built, or it has no such members.
        """
        training, plan = self.budget(plan), self._examples(plan)
        if self.members:
            plan = replace(plan, teacher=self._named(plan))
        if self.teacher is not None:
            few = plan.splits.train.rows[:4]
            sample = plan.splits.train.batch(few, torch.zeros_like(few)).columns("teacher")
            texts = plan.splits.train.table.texts
            if texts and self.teacher.tokenizer:
                who = f"The teacher of the training {self.name!r}"
                texts.demand_tokens_of("teacher", self.teacher.tokenizer, who)
            reach = texts.reach("teacher") if texts else None
            context = replace(plan.context, sample=sample, donor=None, reach=reach)
            module = build(self.teacher, context, _TEACHER_SEED)
            other = build(self.teacher, context, _TEACHER_SEED + 1)
            plan = replace(plan, teacher=LocalTeacher(module.requires_grad_(False), of_module(module)))
        store = plan.store if self.store else None
        plan = replace(plan, terms=self.objective, training=training, store=store).matched()
        if self.teacher is not None:
            self._demand_trained(module, other, plan.terms)
        task, reads = plan.splits.train.task, [term.needs().teacher for term in plan.terms]
        if self.texts is not None and not task.single and any("logits" in read for read in reads):
            raise DataError(
                f"The training {self.name!r} compares answers on other texts, and in the task {task.name!r} it is not known "
                "where those have any: compare layers there, or leave 'texts' out."
            )
        return plan

    def _named(self, plan: Plan) -> Teacher:
        """The members that teach in it, as one teacher."""
        assert plan.teacher is not None
        known = plan.teacher.provides.members
        if unknown := [name for name in self.members if name not in known]:
            raise LimbeckError(
                f"The training {self.name!r} is to be taught by {unknown[0]!r}, and the recipe's teacher "
                + (f"consists of {', '.join(known)}." if known else "does not consist of several: leave 'members' out.")
            )
        several = [OneOf(plan.teacher, name) for name in self.members]
        return EnsembleTeacher(several, task=plan.splits.task, names=self.members)

    def _demand_trained(self, module: nn.Module, other: nn.Module, terms: Terms) -> None:
        """What the training reads of its teacher does not hang on the seed that it was built with.

        Raises:
            LimbeckError: it does, so it was not trained.
        """
        theirs = dict(other.named_parameters())
        matrices = {name: value for name, value in module.named_parameters() if value.ndim > 1}
        new = [name for name, value in matrices.items() if not torch.equal(value, theirs[name])]
        answers = any("logits" in term.needs().teacher for term in terms)
        if new and (answers or len(new) == len(matrices)):
            some = ", ".join(new[:3]) + (", ..." if len(new) > 3 else "")
            raise LimbeckError(
                f"The teacher of the training {self.name!r} is taken as it is, and {some} of it were never trained: "
                + ("compare layers, or name a model" if len(new) < len(matrices) else "name a model")
                + " that knows these answers, or leave it out for the recipe's own teacher."
            )

    def budget(self, plan: Plan) -> Training:
        """Its training, in steps."""
        return (self.training or plan.training).resolved(len(self._examples(plan).splits.train))

    def _examples(self, plan: Plan) -> Plan:
        if self.texts is None:
            return plan
        if all(term.mask == SUPERVISED for term in self.objective):
            raise DataError(
                f"The training {self.name!r} learns from labels alone, and its 'texts' are read without any: compare answers "
                "or layers there, or leave 'texts' out."
            )
        other = _unlabelled(self.texts, plan)
        assert other.table.texts is not None
        splits = replace(plan.splits, train=other)
        context = replace(plan.context, reach=other.table.texts.reach("student"))
        return replace(plan, splits=splits, context=context, views=0)


class Staged(Common):
    """The student goes through the trainings of ``before``, each from where the last one ended, then the recipe's own."""

    name: Literal["staged"] = "staged"
    before: Annotated[tuple[Part, ...], Field(min_length=1)]
    """The trainings before the recipe's own, in order."""

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        names = [part.name for part in self.before]
        if len(set(names)) < len(names) or "distilled" in names:
            raise ValueError(f"each training needs a name of its own, not 'distilled': {', '.join(names)}")
        return self

    def arms(self, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
        """The arms of the offline regime, each with as many steps in one training as the distilled student has in all.

        ``soft_targets`` has the recipe's own terms between logits: what the trainings before them add.
        """
        chosen = {"control": at_whole_budget(Offline().control, self)}
        if plan.pseudo_labels:
            chosen["pseudo_labels"] = at_whole_budget(Offline().pseudo_labels, self)
        if any(term.needs().teacher == {"logits"} for term in plan.terms):
            chosen["soft_targets"] = at_whole_budget(Offline().soft_targets, self)
        return {**chosen, "distilled": self.distilled}

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """With other budgets for the trainings of ``before`` that have their own."""
        before = tuple(
            part if part.training is None else part.model_copy(update={"training": change(part.training)})
            for part in self.before
        )
        return self.model_copy(update={"before": before})

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """All of them."""
        parts = [(part, part.plan(plan)) for part in self.before]
        before = [own.stage(part.name, teacher=own.teacher, frozen=part.frozen) for part, own in parts]
        return (*before, plan.stage("student", teacher=plan.teacher))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        trained: Trained | None = None
        for part in self.before:
            own = part.plan(plan)
            teacher = yield from own.labelled()
            stage = own.stage(part.name, teacher=teacher, start=trained, frozen=part.frozen)
            trained = yield from train(stage)
        teacher = yield from plan.labelled()
        return (yield from train(plan.stage("distilled", teacher=teacher, start=trained)))


def _unlabelled(source: Source, plan: Plan) -> Examples:
    """The texts of ``source`` without those that the student is judged by, read as the plan's texts are."""
    other, texts = _read(source, plan.splits.train.table.texts)
    known = {part.table.raw(row) for part in (plan.splits.validation, plan.splits.test) for row in part.rows.tolist()}
    rows = torch.tensor([row for row, text in enumerate(texts) if text not in known], dtype=torch.int64)
    train = plan.splits.train
    unknown = float("nan") if train.labels.is_floating_point() else NO_LABEL
    labels = train.labels.new_full((len(texts), *train.labels.shape[1:]), unknown)
    return Examples(other, rows, labels, torch.zeros(len(texts), dtype=torch.bool), train.classes, task=train.task)


@lru_cache(maxsize=4)  # every arm and seed asks
def _read(source: Source, like: TextTable | None) -> tuple[TextTable, tuple[str, ...]]:
    raw = source.load()
    if raw.kind != "texts" or like is None:
        raise DataError(f"'texts: {raw.name}' are {raw.kind}: texts are needed, for a student that reads texts.")
    if raw.task.reads != "texts":
        raise DataError(f"'texts: {raw.name}' is a source for the task {raw.task.name!r}: name one of plain texts.")
    texts = tuple(cast(Sequence[str], raw.items))
    return like.over(texts), texts
