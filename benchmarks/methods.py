"""`make methods`: every method on Fashion-MNIST against control, label smoothing and plain soft targets.

Screening: one small convolutional student, with all labels and with 1,000, three weights a method tried on validation at
one seed, the best at three seeds judged on the test part. Every training is kept by its content, so the command goes on
where it was stopped, and each setting can run in a process of its own.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from scipy import stats

from limbeck.config import digest
from limbeck.files import home, write_json
from limbeck.objective import Terms
from limbeck.recipe.reading import parse
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import train
from limbeck.regimes.walk import walk
from limbeck.run.conduct import ready
from limbeck.run.experiment import Experiment, from_recipe
from limbeck.run.folder import versions
from limbeck.run.measure import logits_of
from limbeck.training.progress import Watcher
from limbeck.training.workshop import Trained, Workshop

RESULTS = Path(__file__).parent / "methods"
SEEDS, WEIGHTS = (0, 1, 2), (0.3, 1.0, 3.0)
HEAD = {"student": "head:in", "teacher": "head:in"}
LAST = {"student": "blocks.2", "teacher": "stages.2"}
KD: dict[str, Any] = {"labels": 0.1, "soft-targets": {"weight": 0.9, "temperature": 4}}

METHODS: dict[str, dict[str, Any]] = {
    "label smoothing": {"labels": {"smoothing": 0.1}},
    "soft-targets": KD,
    "soft-targets, standardised": {
        "labels": 0.1,
        "soft-targets": {"weight": 0.9, "temperature": 2, "standardize": True},
    },
    "soft-targets, T learned": {
        "labels": 0.1,
        "soft-targets": {"weight": 0.9, "temperature": {"schedule": "learned"}},
    },
    "soft-targets, T by difficulty": {
        "labels": 0.1,
        "soft-targets": {"weight": 0.9, "temperature": {"schedule": "by-difficulty", "easy": 2, "hard": 6}},
    },
    "soft-targets, teacher correct": {
        "labels": 0.1,
        "soft-targets": {"weight": 0.9, "temperature": 4, "gate": "teacher-correct"},
    },
    "soft-targets, gap": {"labels": 0.1, "soft-targets": {"weight": 0.9, "temperature": 4, "gate": "gap"}},
    "logit-mse": {"labels": 0.1, "soft-targets": {"weight": 0.9, "loss": "logit-mse"}},
    "decoupled": {"labels": 1.0, "decoupled": {"weight": 1.0}},
    "dist": {"labels": 1.0, "dist": {"weight": 2.0}},
    "nkd": {"labels": 0.1, "nkd": {"weight": 1.0}},
    "wsld": {"labels": 1.0, "wsld": {"weight": 2.5}},
    "hints": {**KD, "hints": {**LAST, "normalise": True, "weight": 0.5}},
    "cosine": {**KD, "cosine": {**HEAD, "projector": "always", "weight": 1.0}},
    "attention-transfer": {**KD, "attention-transfer": {**LAST, "weight": 100.0}},
    "channel-wise": {**KD, "channel-wise": {**LAST, "weight": 5.0}},
    "vid": {**KD, "vid": {**LAST, "weight": 0.1}},
    "ofd": {**KD, "ofd": {**LAST, "weight": 1e-3}},
    "mgd": {**KD, "mgd": {**LAST, "weight": 7e-5}},
    "simkd": {**KD, "simkd": {**LAST, "weight": 0.5}},
    "review": {**KD, "review": {"layers": {"blocks.1": "stages.1", "blocks.2": "stages.2"}, "weight": 0.5}},
    "jacobian": {**KD, "jacobian": {"weight": 0.1}},
    "rkd": {**KD, "rkd-distance": {**HEAD, "weight": 1.0}, "rkd-angle": {**HEAD, "weight": 2.0}},
    "similarity-preserving": {**KD, "similarity-preserving": {**HEAD, "weight": 100.0}},
    "correlation-congruence": {**KD, "correlation-congruence": {**HEAD, "weight": 10.0}},
    "pkt": {**KD, "pkt": {**HEAD, "weight": 40.0}},
    "gram": {**KD, "gram": {**LAST, "weight": 100.0}},
    "nst": {**KD, "nst": {**LAST, "weight": 5.0}},
    "contrastive": {**KD, "contrastive": {**HEAD, "weight": 0.1}},
    "crd": {**KD, "crd": {**HEAD, "weight": 0.02, "negatives": 256}},
    "adversarial": {**KD, "adversarial": {"student": "logits", "teacher": "logits", "weight": 0.05}},
}
"""Objectives by name; the weights of what is not labels (for plain soft targets: theirs) are multiplied in the search."""


@dataclass(frozen=True)
class Setting:
    """How much of the data has labels."""

    name: str
    labelled: int | str
    steps: int = 2000
    teacher_steps: int = 2000
    limit: int | None = None


SETTINGS = {"scarce": Setting("1,000 labels", 1000), "all": Setting("all labels", "all", teacher_steps=4000)}


def recipe(setting: Setting) -> str:
    """The recipe that all methods of a setting share."""
    limit = f"\n  limit: {setting.limit}" if setting.limit else ""
    return f"""
limbeck: 1
name: methods
data:
  source: fashion-mnist
  labelled: {setting.labelled}
  validation: 2000
  augment: {{shift: 2, flip: true}}
  views: 3{limit}
teacher:
  model: {{name: small-resnet, width: 16}}
  training: {{steps: {setting.teacher_steps}, optimizer: {{name: adamw, learning-rate: 3e-3}}}}
student: {{name: small-cnn, width: 10}}
objective: {{labels: 0.1, soft-targets: 0.9}}
training: {{steps: {setting.steps}, optimizer: {{name: adamw, learning-rate: 3e-3}}}}
"""


def scaled(objective: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The objective with the weight of what the method adds multiplied."""
    added = [name for name in objective if name not in ("labels", "soft-targets")] or [
        name for name in objective if name == "soft-targets"
    ]
    return {
        name: {**one, "weight": one["weight"] * factor} if name in added else one for name, one in objective.items()
    }


class Bench:
    """One setting's plan, teacher and trainings."""

    def __init__(self, setting: Setting, watcher: Watcher) -> None:
        self.setting = setting
        self.experiment: Experiment = from_recipe(parse(recipe(setting)))
        self.folder = home() / "methods" / self.experiment.hash
        self.workshop = Workshop(home(), watcher.watch)
        self.plan, self.taught = ready(self.experiment, self.workshop, self.folder, watcher)
        self.teacher = walk(self.plan.labelled(), self.workshop, self.folder / "label.json")

    def trained(self, objective: Mapping[str, Any], seed: int) -> Trained:
        """One training of a student."""
        terms = TypeAdapter(Terms).validate_python(dict(objective))
        plan: Plan = replace(self.plan.at(seed), terms=terms)
        reads = {name for term in terms for name in term.needs().teacher}
        examples = None if reads else self.plan.splits.train.labelled()
        # maps of every view would fill the disk: what is more than logits is asked live
        teacher = None if not reads else self.teacher if reads == {"logits"} else plan.teacher
        stage = plan.stage("method", terms, teacher, examples)
        return walk(train(stage), self.workshop, self.folder / f"{digest([dict(objective), seed])[:16]}.json")

    def pseudo_labels(self) -> dict[str, Any]:
        """The arm of hard pseudo-labels, which says what soft targets add to more data."""
        arms = [
            walk(Offline().pseudo_labels(self.plan.at(seed)), self.workshop, self.folder / f"hard-{seed}.json")
            for seed in SEEDS
        ]
        return {"test": [self.accuracy(one) for one in arms], "seconds": [one.seconds for one in arms]}

    def accuracy(self, trained: Trained) -> float:
        """On the test part."""
        test = self.plan.splits.test
        right = (
            logits_of(trained.module(), test, "student", self.plan.device).argmax(-1) == test.labels[test.rows].numpy()
        )
        return float(np.mean(right))

    def method(self, objective: Mapping[str, Any], search: bool) -> dict[str, Any]:
        """The best weight by validation at the first seed, and the test accuracy at every seed."""
        tried: dict[float, float] = {}
        for factor in WEIGHTS if search else (1.0,):
            tried[factor] = self.trained(scaled(objective, factor), SEEDS[0]).metrics["accuracy"]
        best = max(tried, key=lambda factor: tried[factor])
        chosen = scaled(objective, best)
        arms = [self.trained(chosen, seed) for seed in SEEDS]
        return {
            "objective": chosen,
            "factor": best,
            "validation": {str(factor): value for factor, value in tried.items()},
            "test": [self.accuracy(one) for one in arms],
            "seconds": [one.seconds for one in arms],
        }


def paired(ours: Iterable[float], control: Iterable[float]) -> dict[str, float]:
    """Mean difference over paired seeds, its 95 % interval and p-value (two-sided t-test)."""
    gaps = np.asarray(list(ours)) - np.asarray(list(control))
    if len(gaps) < 2 or gaps.std(ddof=1) == 0:
        return {"mean": float(gaps.mean()), "half": float("nan"), "p": float("nan")}
    error = gaps.std(ddof=1) / len(gaps) ** 0.5
    return {
        "mean": float(gaps.mean()),
        "half": float(stats.t.ppf(0.975, len(gaps) - 1) * error),
        "p": float(2 * stats.t.sf(abs(gaps.mean()) / error, len(gaps) - 1)),
    }


def screen(setting: Setting, path: Path, names: Iterable[str]) -> None:
    """Runs what has not been run of one setting, and writes every result at once."""
    with Watcher() as watcher:
        bench = Bench(setting, watcher)
        test, taught = bench.plan.splits.test, bench.plan.teacher
        assert taught is not None
        assert taught.module is not None
        answers = logits_of(taught.module, test, "teacher", bench.plan.device).argmax(-1)
        rows: dict[str, Any] = {
            "teacher": {"test": [float(np.mean(answers == test.labels[test.rows].numpy()))]},
            "control": bench.method({"labels": 1.0}, search=False),
        }
        if setting.labelled != "all":
            rows["hard pseudo-labels"] = bench.pseudo_labels()
        for name in names:
            rows[name] = bench.method(METHODS[name], search=name != "label smoothing")
            watcher.say(f"{setting.name}: {name} {100 * np.mean(rows[name]['test']):.2f} %")
            write_json(
                path,
                {
                    "setting": setting.name,
                    "recipe": recipe(setting),
                    "hash": bench.experiment.hash,
                    "seeds": list(SEEDS),
                    "date": datetime.now(UTC).isoformat(timespec="seconds"),
                    "threads": torch.get_num_threads(),
                    "versions": versions(),
                    "rows": rows,
                },
            )


def main(settings: list[str]) -> None:
    """Screens in the settings of these names, or in all."""
    RESULTS.mkdir(exist_ok=True)
    for name in settings or SETTINGS:
        screen(SETTINGS[name], RESULTS / f"{name}.json", METHODS)


if __name__ == "__main__":
    main(sys.argv[1:])
