"""`python -m benchmarks.methods [STAGE ...]`: every method on Fashion-MNIST, with and without scarce labels.

One teacher, trained on all labels, as somebody has it who wants a smaller model. Screening: one small convolutional
student, three weights a method tried on validation at one seed, the best at three seeds judged on the test part. Then the
best six by validation, at more steps and five seeds, for that student and for an MLP-mixer. Every training is kept by its
content, so the command goes on where it was stopped, and stages can run in processes of their own.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.comparisons import compare
from benchmarks.kept import RESULTS, Arm, Kept
from benchmarks.objectives import BASELINES, CNN, MIXER, WIDE, Objective, Student, objectives, patient, scaled
from limbeck.config import digest
from limbeck.files import home, write_json
from limbeck.losses.similarity import linear_cka
from limbeck.models.identity import of_module
from limbeck.objective import Terms
from limbeck.recipe.reading import parse
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import train
from limbeck.regimes.walk import walk
from limbeck.run.experiment import Experiment, from_recipe
from limbeck.run.folder import versions
from limbeck.run.measure import answers_of
from limbeck.run.ready import ready
from limbeck.signals.capture import show
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.training.progress import Watcher
from limbeck.training.workshop import Trained, Workshop

TEACHER = RESULTS / "arms" / "methods-teacher.safetensors"
WEIGHTS = (0.3, 1.0, 3.0)
BEST, COMPARED, TAUGHT = 6, 512, 6000
AGAINST = ("control", "soft-targets")


@dataclass(frozen=True)
class Stage:
    """One student with so many labels, for so many steps. ``after``: the screening whose best methods it takes, or those of
    ``only``, which without a screening are tried at three weights. ``share``: `data.labelled-share`. ``patient``: few
    objectives at length, every view of a picture another. ``folds``: `teacher.folds`, in place of the teacher that all share.
    """

    title: str
    labelled: int | str
    student: Student = CNN
    steps: int = 2000
    seeds: tuple[int, ...] = (0, 1, 2)
    after: str | None = None
    mixup: float = 0
    limit: int | None = None
    patient: bool = False
    share: float | None = None
    folds: int | None = None
    only: tuple[str, ...] = ()

    @property
    def recipe(self) -> str:
        """The recipe that all its methods share."""
        more = "" if self.patient else "\n  views: 3"
        more += (f"\n  mixup: {self.mixup}" if self.mixup else "") + (f"\n  limit: {self.limit}" if self.limit else "")
        more += f"\n  labelled-share: {self.share}" if self.share else ""
        folds = f"  folds: {self.folds}\n" if self.folds else ""
        adamw = "optimizer: {name: adamw, learning-rate: 3e-3}"
        return (
            "limbeck: 1\nname: methods\ndata:\n  source: fashion-mnist\n"
            f"  labelled: {self.labelled}\n  validation: 2000\n  augment: {{shift: 2, flip: true}}{more}\n"
            f"teacher:\n  model: {{name: small-resnet, width: 16}}\n"
            f"  training: {{steps: {TAUGHT}, {adamw}}}\n{folds}"
            f"student: {self.student.spec}\nobjective: {{labels: 0.1, soft-targets: 0.9}}\n"
            f"training: {{steps: {self.steps}, {adamw}}}\n"
        )


FULL: dict[str, Any] = {"steps": 4000, "seeds": (0, 1, 2, 3, 4)}
LONG: dict[str, Any] = {"steps": 12_000, "mixup": 1.0, "patient": True}
LATER = ("dist, T by difficulty", "layer-choice")
"""What was not there when the screening ran; beside it the baselines again, with the teacher of its machine."""
SCARCE, ALL = Stage("1,000 labels", 1000), Stage("all labels", "all")
STAGES = {
    "scarce": SCARCE,
    "all": ALL,
    "scarce-later": replace(SCARCE, only=LATER, title="1,000 labels, what came later"),
    "all-later": replace(ALL, only=LATER, title="all labels, what came later"),
    "scarce-shared": replace(
        SCARCE,
        share=0.25,
        after="scarce",
        only=("dist", "decoupled", "nkd", "wsld"),
        title="1,000 labels, rows with one a quarter of what is read",
    ),
    "scarce-full": replace(SCARCE, **FULL, after="scarce", title="1,000 labels, the best at more steps"),
    "all-full": replace(ALL, **FULL, after="all", title="all labels, the best at more steps"),
    "scarce-mixer": replace(SCARCE, **FULL, after="scarce", student=MIXER, title="1,000 labels, an MLP-mixer"),
    "all-mixer": replace(ALL, **FULL, after="all", student=MIXER, title="all labels, an MLP-mixer"),
    "scarce-wide": replace(
        SCARCE,
        steps=4000,
        after="scarce",
        student=WIDE,
        only=("dist",),
        title="1,000 labels, a student of two and a half times the size",
    ),
    "all-wide": replace(
        ALL,
        steps=4000,
        after="all",
        student=WIDE,
        only=("dist",),
        title="all labels, a student of two and a half times the size",
    ),
    "all-folds": replace(
        ALL,
        **FULL,
        after="all",
        folds=4,
        only=("dist", "soft-targets, T by difficulty"),
        title="all labels, of teachers that have not seen the picture",
    ),
    "all-wide-folds": replace(
        ALL,
        steps=4000,
        after="all",
        folds=4,
        student=WIDE,
        only=("dist",),
        title="all labels, the larger student, of teachers that have not seen the picture",
    ),
    "scarce-patient": replace(SCARCE, **LONG, title="1,000 labels, at length on mixed pictures"),
    "all-patient": replace(ALL, **LONG, title="all labels, at length on mixed pictures"),
}


class Bench:
    """One stage's arms: those that are kept, and what trains the others."""

    def __init__(self, name: str, stage: Stage, watcher: Watcher) -> None:
        self.stage, self.watcher, self.kept = stage, watcher, Kept(f"methods-{name}")
        self.experiment: Experiment = from_recipe(parse(stage.recipe))

    @cached_property
    def school(self) -> "School":
        """The teacher and its answers; made where an arm is missing."""
        school = School(self.stage, self.experiment, self.watcher)
        self.kept.taught_by(school.right(school.taught))
        return school

    @property
    def teacher(self) -> Arm:
        """The teacher, as all stages of this student have it."""
        return self.kept.teacher(lambda: Arm(float("nan"), self.school.right(self.school.taught)))

    def trained(self, objective: Mapping[str, Any] | None, seed: int) -> Arm:
        """One training of a student; None: on hard pseudo-labels, which say what soft targets add to more data."""
        told = None if objective is None else dict(objective)
        key = digest([self.stage.recipe, told, seed])[:24]  # its text: a hash changes with every new setting
        return self.kept.arm(key, lambda: self.school.arm(objective, seed))

    def method(self, objective: Objective | None, search: bool) -> "Method":
        """The best weight by validation at the first seed, then every seed; None: hard pseudo-labels."""
        seeds, tried = self.stage.seeds, dict[float, float]()
        if objective is not None and search:
            for factor in WEIGHTS:
                tried[factor] = self.trained(scaled(objective, factor), seeds[0]).validation
            objective = scaled(objective, max(tried, key=lambda factor: tried[factor]))
        return Method(objective, tried, [self.trained(objective, seed) for seed in seeds])


class School:
    """What trains a stage's arms: its plan, its teacher, and the teacher's answers."""

    def __init__(self, stage: Stage, experiment: Experiment, watcher: Watcher) -> None:
        self.student, self.folder = stage.student, home() / "methods" / experiment.hash
        self.workshop = Workshop(home(), watcher.watch)
        plain = replace(
            stage, labelled="all", mixup=0, patient=False, share=None, folds=None
        )  # one teacher for all stages
        whole = from_recipe(parse(plain.recipe))
        self.taught = self._teacher(whole, watcher)
        own = experiment.plan(home(), stage.seeds[0], watcher.labelling)
        assert own.splits.validation.rows.equal(whole.splits.validation.rows)  # the teacher has not seen them
        self.one: Teacher = LocalTeacher(self.taught, of_module(self.taught))
        teacher = ready(experiment, self.workshop, self.folder, watcher)[0].teacher if stage.folds else self.one
        self.plan: Plan = replace(own, teacher=teacher, teacher_stages=())
        self.answers = walk(self.plan.labelled(), self.workshop, self.folder / "label.json")

    def _teacher(self, whole: Experiment, watcher: Watcher) -> nn.Module:
        """The teacher, whose weights are kept beside the arms: another machine rounds otherwise, and would train another one."""
        if not TEACHER.exists():
            plan, _ = ready(whole, self.workshop, home() / "methods" / whole.hash, watcher)
            assert plan.teacher is not None
            assert plan.teacher.module is not None
            TEACHER.parent.mkdir(parents=True, exist_ok=True)
            save_file(plan.teacher.module.state_dict(), TEACHER)
        (stage,) = whole.plan(home(), 0).teacher_stages
        module = stage.start.module()
        module.load_state_dict(load_file(TEACHER))
        return module.eval().requires_grad_(False)

    def arm(self, objective: Mapping[str, Any] | None, seed: int) -> Arm:
        """Trains one student and marks it; None: on hard pseudo-labels."""
        trained = self.pseudo_labelled(seed) if objective is None else self.trained(objective, seed)
        module = trained.module()
        return Arm.of(trained, self.right(module), self.likeness(module))

    def trained(self, objective: Mapping[str, Any], seed: int) -> Trained:
        """One training of a student."""
        terms = TypeAdapter(Terms).validate_python(dict(objective))
        plan: Plan = replace(self.plan.at(seed), terms=terms)
        reads = {name for term in terms for name in term.needs().teacher}
        examples = None if reads else self.plan.splits.train.labelled()
        # maps of every view would fill the disk: what is more than logits is asked live
        teacher = None if not reads else self.answers if reads == {"logits"} else plan.teacher
        stage = plan.stage("method", terms, teacher, examples)
        return walk(train(stage), self.workshop, self.folder / f"{digest([dict(objective), seed])[:16]}.json")

    def pseudo_labelled(self, seed: int) -> Trained:
        """One training on hard pseudo-labels."""
        return walk(Offline().pseudo_labels(self.plan.at(seed)), self.workshop, self.folder / f"hard-{seed}.json")

    def right(self, module: nn.Module) -> NDArray[np.bool_]:
        """Which test examples it has right, [N]."""
        test = self.plan.splits.test
        answers = answers_of(module, test, "student", self.plan.device).logits.argmax(-1)
        found: NDArray[np.bool_] = (answers == test.labels[test.rows]).numpy()
        return found

    def likeness(self, student: nn.Module) -> dict[str, float]:
        """Linear CKA of the student's last two layers with the teacher's last two stages, on validation rows."""
        rows = self.plan.splits.validation.rows[:COMPARED]
        batch = self.plan.splits.validation.batch(rows, torch.zeros_like(rows))
        pairs = {self.student.before: "stages.1", self.student.last: "stages.2"}
        theirs = self.one.observe(batch, frozenset(pairs.values()))
        ours = show(student, batch.columns("student"), frozenset(pairs))
        return {b: float(linear_cka(_pooled(ours[a]), _pooled(theirs[b]))) for a, b in pairs.items()}


@dataclass(frozen=True)
class Method:
    """A method's objective, the validation accuracies of the weights that were tried, and its students."""

    objective: Objective | None
    tried: Mapping[float, float]
    arms: Sequence[Arm]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which test examples each seed has right, [S, N]."""
        return np.stack([arm.right for arm in self.arms])

    def row(self, others: Mapping[str, "Method"]) -> dict[str, Any]:
        """What a table says of it, compared with those of `AGAINST` that there are."""
        return {
            "objective": self.objective,
            "tried": {str(factor): value for factor, value in self.tried.items()},
            "validation": [arm.validation for arm in self.arms],
            "test": self.right.mean(1).tolist(),
            "against": {
                name: compare(self.right, others[name].right)
                for name in AGAINST
                if name in others and others[name] is not self
            },
            "cka": dict(self.arms[0].cka),
            "seconds": [arm.seconds for arm in self.arms],
        }


def _pooled(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(2).mean(2) if value.ndim == 4 else value.mean(1) if value.ndim == 3 else value


def chosen(stage: Stage) -> dict[str, Objective]:
    """The methods of a stage: all of them, or the baselines and the best of its screening by validation."""
    if stage.patient:
        return patient()
    every = objectives(stage.student)
    if stage.after is None:
        return {name: every[name] for name in (*BASELINES, *stage.only)} if stage.only else every
    rows = json.loads((RESULTS / f"methods-{stage.after}.json").read_text())["rows"]
    ranked = sorted(
        (name for name in every if name in rows and name not in BASELINES),
        key=lambda name: -np.mean(rows[name]["validation"]),
    )
    tried = {name: rows[name]["tried"] for name in every if name in rows and rows[name]["tried"]}
    factors = {name: float(max(values, key=values.__getitem__)) for name, values in tried.items()}
    return {
        name: scaled(every[name], factors[name]) if name in factors else every[name]
        for name in (*BASELINES, *(stage.only or ranked[:BEST]))
    }


def perform(name: str, stage: Stage) -> None:
    """Runs what has not been run of one stage, and writes every result at once."""
    path = RESULTS / f"methods-{name}.json"
    with Watcher() as watcher:
        bench = Bench(name, stage, watcher)
        arms = {"control": bench.method({"labels": 1.0}, search=False)}
        if stage.labelled != "all":
            arms["hard pseudo-labels"] = bench.method(None, search=False)
        rows: dict[str, Any] = {"teacher": {"test": [float(bench.teacher.right.mean())]}}
        for method, objective in chosen(stage).items():
            screening = stage.after is None and not stage.patient
            arms[method] = bench.method(objective, screening and method != "label smoothing")
            rows |= {one: arm.row(arms) for one, arm in arms.items() if one not in rows}
            watcher.say(f"{stage.title}: {method} {100 * np.mean(rows[method]['test']):.2f} %")
            write_json(
                path,
                {
                    "title": stage.title,
                    "recipe": stage.recipe,
                    "hash": bench.experiment.hash,
                    "seeds": stage.seeds,
                    "date": datetime.now(UTC).isoformat(timespec="seconds"),
                    "threads": torch.get_num_threads(),
                    "versions": versions(),
                    "rows": rows,
                },
            )


def main(names: list[str]) -> None:
    """Performs the stages of these names, or all."""
    for name in names or STAGES:
        perform(name, STAGES[name])


if __name__ == "__main__":
    main(sys.argv[1:])
