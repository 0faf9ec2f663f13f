"""What `benchmarks.tokens` compares: models, batches, and steps of training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.floor import Shape, batch_of, floor
from limbeck.data.batch import CLASS
from limbeck.data.language import NextToken
from limbeck.objective import Labels, Objective
from limbeck.objective.divergence import Diverging
from limbeck.objective.schedules import Fixed
from limbeck.signals.capture import Capture
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.store.codecs import Codec
from limbeck.teachers.store.sampled import SampledCodec
from limbeck.teachers.store.top_k import TopKCodec
from limbeck.teachers.teacher import Teacher

KINDS: dict[str, dict[str, Any]] = {
    "forward-kl": {},
    "reverse-kl": {},
    "skew-kl": {"alpha": 0.1},
    "skew-reverse-kl": {"alpha": 0.1},
    "total-variation": {},
    "jensen-shannon": {"beta": 0.5},
    "continuous-jensen-shannon": {"beta": 0.5},
    "adaptive-kl": {},
    "alpha-beta": {},
}
TARGETS = {"forward-kl": 1.05, "jensen-shannon": 1.15} | dict.fromkeys(
    ("reverse-kl", "skew-kl", "skew-reverse-kl", "total-variation"), 1.1
)
STORED: dict[str, Codec] = {
    "labels and forward-kl, 50 draws stored (the default)": SampledCodec(),
    "labels and forward-kl, 12 draws stored": SampledCodec(draws=12),
    "labels and forward-kl, top 50 stored": TopKCodec(),
}


@dataclass(frozen=True)
class Scene:
    """Two models, a vocabulary and a batch. ``few``: only what has a target, as a step takes long."""

    title: str
    vocabulary: int
    teacher: Shape
    student: Shape
    rows: int
    length: int
    turns: int = 7
    few: bool = False

    @property
    def peers(self) -> dict[str, str]:
        """The versions of what is measured beside ours."""
        return {"trl": version("trl")} if find_spec("trl") and not self.few else {}


_WIDE, _THIN = Shape(512, 4, 8, 8, 2048), Shape(256, 4, 4, 4, 1024)
_SMOL, _QWEN = Shape(576, 30, 9, 3, 1536), Shape(896, 24, 14, 2, 4864)
SCENES = {
    "small-32000": Scene("4 layers of 512 to 4 of 256", 32_000, _WIDE, _THIN, 4, 256),
    "small-151936": Scene("4 layers of 512 to 4 of 256", 151_936, _WIDE, _THIN, 4, 256, turns=5),
    "smollm2": Scene(
        "SmolLM2-135M's shape to half of its layers", 49_152, _SMOL, replace(_SMOL, layers=15), 1, 256, 5, True
    ),
    "qwen2": Scene(
        "Qwen2.5-0.5B's shape to half of its layers", 151_936, _QWEN, replace(_QWEN, layers=12), 1, 128, 5, True
    ),
}


class Setting:
    """Teacher, student and a batch of a scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.folder = scene, TemporaryDirectory()
        self.teacher, self.student = scene.teacher.build(scene.vocabulary).eval(), scene.student.build(scene.vocabulary)
        self.batch = batch_of(scene.vocabulary, scene.rows, scene.length)

    def floor(self, chunk: int) -> Callable[[], None]:
        """One step of the floor."""
        return floor(self.teacher, self.student, self.batch, chunk)

    def ours(self, terms: list[Any], teacher: Teacher | None = None) -> Callable[[], None]:
        """One step of an objective."""
        objective, capture = Objective(terms, NextToken()), Capture(self.student, {"logits"})
        asked, wanted = teacher or LocalTeacher(self.teacher, "teacher"), objective.needs().teacher

        def step() -> None:
            seen = asked.observe(self.batch, wanted) if wanted else None
            objective(capture(self.batch.columns("student")), seen, self.batch)[0].backward()
            self.student.zero_grad(set_to_none=True)

        return step

    def stored(self, terms: list[Any], codec: Codec) -> Callable[[], None]:
        """One step with the teacher as a store, read from the disk; the first one makes it."""
        steps: list[Callable[[], None]] = []

        def step() -> None:
            if not steps:
                steps.append(self.ours(terms, self._store(codec)))
            steps[0]()

        return step

    def _store(self, codec: Codec) -> Teacher:
        cached = CachedTeacher(LocalTeacher(self.teacher, "teacher"), Path(self.folder.name), "batch", codec=codec)
        cached.observe(self.batch, frozenset({"logits"}))
        cached.flush()
        return cached

    def dense(self) -> Callable[[], None]:
        """One step as it is usually written: both sides' logits whole, by `torch.nn.functional.kl_div`."""

        def step() -> None:
            with torch.no_grad():
                theirs = self.teacher(**self.batch.inputs).logits
            ours = self.student(**self.batch.inputs).logits
            kept = self.batch.labels[CLASS] >= 0
            log_q, log_p = ours[kept].log_softmax(-1), theirs[kept].log_softmax(-1)
            torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True).backward()  # type: ignore[no-untyped-call]
            self.student.zero_grad(set_to_none=True)

        return step

    def theirs(self, beta: float, chunked: bool) -> Callable[[], None]:
        """One step with the loss of TRL's GKD trainer, or of its distillation trainer, called as these call them."""
        from trl.experimental.gkd.gkd_trainer import GKDTrainer
        from trl.trainer.distillation_trainer import _chunked_divergence_loss

        labels, both = self.batch.labels[CLASS], (self.student, self.teacher)

        def step() -> None:
            if chunked:
                with torch.no_grad():
                    known = self.teacher.model(**self.batch.inputs)[0]
                hidden, weights = self.student.model(**self.batch.inputs)[0], (one.lm_head.weight for one in both)
                loss, _, _ = _chunked_divergence_loss(hidden, known, *weights, labels >= 0, beta)
            else:
                with torch.no_grad():
                    said = self.teacher(**self.batch.inputs).logits
                loss = GKDTrainer.generalized_jsd_loss(self.student(**self.batch.inputs).logits, said, labels, beta)
            loss.backward()
            self.student.zero_grad(set_to_none=True)

        return step

    def variants(self) -> dict[str, Callable[[], None]]:
        """What is compared with the floor; `STORED` with ``labels``."""
        both = [Labels(weight=Fixed(value=0.5)), Diverging(weight=Fixed(value=0.5))]
        kinds = {kind: own for kind, own in KINDS.items() if kind in TARGETS or not self.scene.few}
        found = {
            "labels": self.ours([Labels()]),
            **{name: self.stored(both, codec) for name, codec in STORED.items()},
            **{kind: self.ours([Diverging(kind=kind, **own)]) for kind, own in kinds.items()},  # type: ignore[arg-type]
            "labels and forward-kl": self.ours(both),
        }
        if self.scene.few:
            return found
        trl = {
            f"TRL {name}, beta {beta}": self.theirs(beta, chunked)
            for name, chunked in (("GKD", False), ("distillation", True))
            for beta in (0, 0.5, 1)
            if self.scene.peers
        }
        return {**found, "dense": self.dense(), **trl}
