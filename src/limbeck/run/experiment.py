"""`Experiment`: the parts of one run, built from a recipe or from objects in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from limbeck.code import allow_code
from limbeck.config import digest
from limbeck.data.batch import Batch
from limbeck.data.examples import Splits
from limbeck.data.sifting import Filter, told
from limbeck.data.tokenizers import TASK
from limbeck.errors import DataError
from limbeck.evidence.besides import Form
from limbeck.evidence.metrics import check_names
from limbeck.evidence.verdict import SMALLEST_EFFECT
from limbeck.models.specs import BuildContext, Spec
from limbeck.objective import Term, by_task, untaught
from limbeck.recipe import Recipe
from limbeck.recipe.teacher import TeacherPart
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Join, Plan
from limbeck.regimes.regime import Teaching
from limbeck.run.teachers import Learner, demand_tasks, learners_of, normalised_by, teacher_of
from limbeck.teachers.precision import Asking
from limbeck.teachers.store.codecs import Coding
from limbeck.teachers.teacher import Teacher
from limbeck.training import launch
from limbeck.training.settings import Training
from limbeck.training.stage import Stage, Start

_SAMPLE = 64  # training rows that a model may be fitted to when it is built


@dataclass(frozen=True)
class Experiment:
    """What a run consists of.

    ``settings``: what names the run and is shown in its report. ``teacher``: if it knows the classes already; otherwise
    ``learners`` are trained: one, which is run as ``asking`` says, or several, of which ``join`` makes one teacher.
    ``teacher_spec``: what the teacher is, if it is one model. ``remarks``: what a reader of the report must know of how the
    experiment came about.
    """

    name: str
    settings: Mapping[str, Any]
    splits: Splits
    student: Spec
    terms: tuple[Term, ...]
    training: Training
    teacher: Teacher | None = None
    teacher_spec: Spec | None = None
    asking: Asking | None = None
    learners: tuple[Learner, ...] = ()
    join: Join | None = None
    store: bool = True
    codec: Coding | None = None
    views: int | None = 0
    labelled_share: float | None = None
    vocabulary: int | None = None
    regime: Teaching = field(default_factory=Offline)
    seeds: tuple[int, ...] = (0, 1, 2)
    metrics: tuple[str, ...] = ()
    smallest_effect: float = SMALLEST_EFFECT
    margin: float = 0.02
    equal_compute: bool = False
    ceiling: bool = False
    apart: bool = False
    samples: int = 32
    new_tokens: int = 48
    exact_match: Form = "text"
    watch: Mapping[str, Filter] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.watch and self.splits.task.gives != "tokens":
            raise DataError(
                "'evidence.watch' looks at what language models write, and here nobody writes: leave it out."
            )
        if self.exact_match != "text" and (self.splits.task.gives != "tokens" or not self.samples):
            raise DataError(
                "'evidence.exact-match' says how what language models write is compared with its reference, and here nobody "
                "writes: leave it out."
            )
        for part in ("train", "validation", "test"):
            if not len(getattr(self.splits, part)):
                raise DataError(
                    f"The {part} part is empty, and nothing works without it: raise data.{part}, or add rows."
                )
        for name in self.splits.task.heads:
            self._demand_labels(name)
        check_names(self.metrics, self.splits.task, self.splits.classes)

    def _demand_labels(self, task: str) -> None:
        own = self.splits.only(task)
        for part in ("train", "validation", "test"):
            if not len(getattr(own, part).labelled()):
                size = "labelled" if part == "train" else part
                raise DataError(
                    f"No row of the {part} part has a label of the task {task!r} that may be seen, so nothing can be said of it: "
                    f"add rows, raise data.{size}, or leave the task out."
                )

    @property
    def hash(self) -> str:
        """Names the run: all its settings, but for its name and its trackers."""
        return digest({key: value for key, value in self.settings.items() if key not in ("name", "trackers")})

    def sample(self, rows: int = 4) -> Batch:
        """A few training rows as they are."""
        ids = self.splits.train.rows[:rows]
        return self.splits.train.batch(ids, torch.zeros_like(ids))

    def context(self, side: str) -> BuildContext:
        """What a model of this side is built from."""
        names, texts = self.splits.classes, self.splits.train.table.texts
        sample, task = self.sample(_SAMPLE).columns(side), self.splits.task
        most = texts.reach(side) if texts else None
        scale = normalised_by(self.splits)
        plain = BuildContext(
            len(names), sample, names, vocabulary=self.vocabulary, task=task, reach=most, normalised=scale
        )
        if side == "teacher":
            return replace(plain, vocabulary=texts.teacher.vocabulary) if texts and texts.teacher else plain
        donor = self.teacher.module if self.teacher else None
        return replace(plain, donor=donor, donor_tokens=texts.teacher_tokens if texts else None)

    def plan(self, home: Path, seed: int, on_label: Callable[[int, int], None] = lambda done, total: None) -> Plan:
        """The plan of one seed."""
        return Plan(
            splits=self.splits,
            student=self.student,
            terms=self.terms,
            training=self.training.resolved(len(self.splits.train)),
            teacher=self.teacher,
            teacher_stages=self.teacher_stages(),
            asking=self.asking,
            join=self.join,
            views=self.views,
            seed=seed,
            context=self.context("student"),
            labelled_share=self.labelled_share,
            store=home / "stores" if self.store else None,
            codec=self.codec,
            device=str(PartialState().device),
            on_label=on_label,
        )

    @property
    def filtered(self) -> str:
        """What filters left out, in a sentence; empty if nothing."""
        rejected, kept = self.splits.rejected, len(self.splits.train)
        return told(rejected, kept + len(rejected), "training rows") if rejected else ""

    def teacher_stages(self) -> tuple[Stage, ...]:
        """How the teacher is trained, or those that it consists of; nothing if all know the answers already."""
        return tuple(self._learning(one) for one in self.learners)

    def _learning(self, one: Learner) -> Stage:
        splits = self.splits.only(one.task) if one.task else self.splits
        splits = splits.of_class_names(one.classes) if one.classes else splits
        labelled = splits.train.labelled().as_read_by("teacher")
        if one.unseen is not None:
            folds, fold = one.unseen
            labelled = replace(labelled, rows=folds.seen(labelled, fold))
        if not len(labelled) or not len(splits.validation):
            raise DataError(
                f"The {one.name} learns {', '.join(one.classes or ())}, of which there is no row to learn from."
            )
        return Stage(
            name=one.name,
            start=Start(one.spec, one.seed, self.context("teacher").about(splits.task, splits.classes)),
            terms=untaught(splits.task, one.smoothing),
            examples=labelled,
            validation=splits.validation.as_read_by("teacher"),
            training=one.training.resolved(len(labelled)),
            teacher=None,
            views=self.views,
            seed=one.seed,
            side="teacher",
        )


def from_recipe(recipe: Recipe, code: bool = False) -> Experiment:
    """The parts that a recipe names. ``code``: whether the recipe may name Python code to run.

    Raises:
        LimbeckError: data or a model cannot be loaded.
    """
    launch.join()
    with allow_code(code):
        part = recipe.teacher or TeacherPart.model_construct()
        theirs, kept = part.tokenizer, part.stored is not None or part.served is not None
        codec = None if isinstance(part.store, bool) else part.store
        if part.served and not (recipe.student.tokenizer or recipe.data.tokenizer):
            raise DataError("Name the served model's tokenizer in data.tokenizer: it reads token ids as they are.")
        splits = recipe.data.load(tokenizer=recipe.student.tokenizer or theirs, teacher_tokenizer=theirs)
        demand_tasks(part, splits.task)
        texts, own = splits.train.table.texts, recipe.student.tokenizer
        if texts and own and own != TASK and recipe.data.tokenizer:
            texts.demand_tokens_of("student", own, "The student")
        found = Experiment(
            name=recipe.name,
            settings=recipe.plain(),
            splits=splits,
            student=recipe.student,
            terms=by_task(recipe.objective, splits.task, part.tasks),
            training=recipe.training,
            teacher_spec=part.spec,
            asking=part.asking,
            store=bool(part.store) and not kept and (bool(codec) or splits.task.gives != "tokens"),
            codec=codec,
            views=recipe.data.looks,
            labelled_share=recipe.data.labelled_share,
            vocabulary=getattr(splits.reader, "vocabulary", None),
            regime=recipe.regime,
            seeds=tuple(range(recipe.seeds)),
            metrics=recipe.evidence.metrics,
            smallest_effect=recipe.evidence.smallest_effect,
            margin=recipe.evidence.margin,
            equal_compute=recipe.evidence.equal_compute,
            ceiling=recipe.evidence.ceiling,
            apart=recipe.evidence.apart,
            samples=recipe.evidence.samples,
            new_tokens=recipe.evidence.new_tokens,
            exact_match=recipe.evidence.exact_match,
            watch=recipe.evidence.watch,
            trackers=recipe.trackers,
        )
        if recipe.teacher is None:
            return found
        teacher, join = teacher_of(part, splits, found.context("teacher"))
        return replace(found, teacher=teacher, learners=learners_of(part, splits), join=join)
