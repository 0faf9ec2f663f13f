"""`python -m benchmarks.tokens [SCENE ...]`: what a divergence over a large vocabulary costs beside its floor.

The floor (`benchmarks.floor`) is at the best of several chunk sizes. A training from a stored teacher (12 draws a token) is
measured against one on labels alone. Everything is float32 and runs in turns in one process; a figure is the median of ratios
to what ran beside it. TRL's losses are measured too where it is installed. Peak memory is of a process of its own, less what it
had before the step.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.floor import Shape, batch_of, floor
from benchmarks.kept import RESULTS
from limbeck.data.batch import CLASS
from limbeck.data.language import NextToken
from limbeck.files import write_json
from limbeck.objective import Labels, Objective
from limbeck.objective.divergence import Diverging
from limbeck.objective.schedules import Fixed
from limbeck.run.folder import versions
from limbeck.signals.capture import Capture
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.store.sampled import SampledCodec
from limbeck.teachers.teacher import Teacher
from limbeck.training.memory import keep_freed

PAGE = RESULTS / "tokens.md"
CHUNKS = (64, 128, 256, 512)
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
HEAVIEST = 1.05
"""Peak memory over the floor's that a divergence may have at V = 151,936."""
STORED = "labels and forward-kl, stored draws"


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


_WIDE, _THIN = Shape(512, 4, 8, 8, 2048), Shape(256, 4, 4, 4, 1024)
_SMOL, _QWEN = Shape(576, 30, 9, 3, 1536), Shape(896, 24, 14, 2, 4864)
SCENES = {
    "small-32000": Scene("4 layers of 512 to 4 of 256", 32_000, _WIDE, _THIN, 4, 256),
    "small-151936": Scene("4 layers of 512 to 4 of 256", 151_936, _WIDE, _THIN, 4, 256, turns=5),
    "smollm2": Scene(
        "SmolLM2-135M's shape to half of its layers", 49_152, _SMOL, replace(_SMOL, layers=15), 1, 256, 5, True
    ),
    "qwen2": Scene(
        "Qwen2.5-0.5B's shape to half of its layers", 151_936, _QWEN, replace(_QWEN, layers=12), 1, 128, 3, True
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

    def stored(self, terms: list[Any]) -> Callable[[], None]:
        """One step with the teacher as a store of draws, read from the disk; the first one makes it."""
        steps: list[Callable[[], None]] = []

        def step() -> None:
            if not steps:
                steps.append(self.ours(terms, self._store()))
            steps[0]()

        return step

    def _store(self) -> Teacher:
        cached = CachedTeacher(
            LocalTeacher(self.teacher, "teacher"), Path(self.folder.name), "batch", codec=SampledCodec(draws=12, seed=0)
        )
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
            STORED: self.stored(both),
            **{kind: self.ours([Diverging(kind=kind, **own)]) for kind, own in kinds.items()},  # type: ignore[arg-type]
            "labels and forward-kl": self.ours(both),
        }
        if self.scene.few:
            return found
        light = self.scene.vocabulary < 100_000  # whole logits of both sides would take gigabytes
        trl = {
            f"TRL {name}, beta {beta}": self.theirs(beta, chunked)
            for name, chunked in (("GKD", False), ("distillation", True))
            for beta in (0, 0.5, 1)
            if find_spec("trl") and (light or chunked)
        }
        return {**found, **({"dense": self.dense()} if light else {}), **trl}


def seconds(step: Callable[[], None]) -> float:
    """Of one step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def ratios(scene: Scene, kinds: list[str] | None = None) -> dict[str, Any]:
    """Times over that of the floor; of `STORED` over that of labels alone."""
    keep_freed()  # as a training does; the floor has it too
    setting = Setting(scene)
    floors = {chunk: setting.floor(chunk) for chunk in CHUNKS if chunk <= 2 * scene.rows * scene.length}
    best = min(floors, key=lambda chunk: min(seconds(floors[chunk]) for _ in range(3)))
    variants, taken, own = setting.variants(), dict[str, list[float]](), list[float]()
    for turn in range(scene.turns + 1):
        for name, step in variants.items():
            if kinds and name not in kinds:
                continue
            ratio = seconds(step) / (beside := seconds(variants["labels"] if name == STORED else floors[best]))
            if turn:
                taken.setdefault(name, []).append(ratio)
                own += [] if name == STORED else [beside]
    return {
        "chunk": best,
        "floor seconds": round(median(own), 4) if own else None,
        "time": {name: round(median(found), 3) for name, found in taken.items()},
        "spread": {name: [round(min(found), 3), round(max(found), 3)] for name, found in taken.items()},
    }


def peak(scene: Scene, name: str, chunk: int) -> float:
    """MiB that a step takes at most, in this process."""
    keep_freed()
    setting = Setting(scene)
    step = setting.floor(chunk) if name == "floor" else setting.variants()[name]
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew; `getrusage` tells a child its parent's too
    before = _highest()
    step()
    return (_highest() - before) / 1024


def _highest() -> int:
    """KiB that this process held at most."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(told["VmHWM"].split()[0])


def table(name: str, found: dict[str, Any]) -> str:
    """One scene."""
    scene, peaks = SCENES[name], found["peak"]
    rows = [
        f"| {one}{', beside labels alone' if one == STORED else ''} | {ratio:.2f} ({found['spread'][one][0]:.2f} to "
        f"{found['spread'][one][1]:.2f}) | {'1.03' if one == STORED else TARGETS.get(one, '')} | "
        + (f"{peaks[one]:,} | {peaks[one] / peaks['floor']:.2f} |" if one in peaks else "| |")
        for one, ratio in found["time"].items()
    ]
    return (
        f"## {scene.title}, V = {scene.vocabulary:,}\n\n{scene.rows} x {scene.length} tokens, {scene.turns} turns; "
        f"the floor takes {found['floor seconds']:.2f} s and {peaks['floor']:,} MiB, in chunks of {found['chunk']} rows.\n\n"
        "| step | time over the floor (least to most) | target | peak, MiB | over the floor |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n<sub>{found['date']}, {found['threads']} torch thread(s), "
        + ", ".join(f"{one} {version}" for one, version in found["versions"].items())
        + "</sub>\n"
    )


def main() -> None:
    """Measures and writes."""
    reader = argparse.ArgumentParser()
    reader.add_argument("scene", nargs="*", choices=[[], *SCENES], default=[])  # argparse checks the default too
    reader.add_argument("--peak", nargs=2)
    reader.add_argument("--kinds", nargs="*", help="which variants, without writing; all if left out")
    told = reader.parse_args()
    if told.peak:
        print(peak(SCENES[told.scene[0]], told.peak[0], int(told.peak[1])))
        return
    for name in told.scene or SCENES:
        one = ratios(SCENES[name], told.kinds)
        print(json.dumps({name: one}, indent=1), flush=True)
        if told.kinds:
            continue
        one["peak"] = {}
        for variant in ("floor", *(each for each in one["time"] if each != STORED)):
            asked = [sys.executable, "-m", "benchmarks.tokens", name, "--peak", variant, str(one["chunk"])]
            one["peak"][variant] = round(
                float(subprocess.run(asked, capture_output=True, check=True, text=True).stdout)
            )
        one |= {"threads": torch.get_num_threads(), "versions": versions()}
        write_json(_file(name), one | {"date": datetime.now(UTC).isoformat(timespec="seconds")})
    missed = [f"{name}: {one}" for name in told.scene or SCENES if not told.kinds for one in _heavy(name)]
    measured = [table(name, json.loads(_file(name).read_text())) for name in SCENES if _file(name).exists()]
    PAGE.write_text(
        "# What divergences over large vocabularies cost\n\n" + __doc__.split("\n\n", 1)[1] + "\n" + "\n".join(measured)
    )
    if missed:
        raise SystemExit(f"more than {HEAVIEST} of the floor's memory: {'; '.join(missed)}")


def _heavy(name: str) -> list[str]:
    """What a target is for and takes more memory than it may. In a small vocabulary two buffers are most of it."""
    peaks = json.loads(_file(name).read_text())["peak"] if SCENES[name].vocabulary > 100_000 else {"floor": 0}
    return [one for one in TARGETS if one in peaks and peaks[one] > HEAVIEST * peaks["floor"]]


def _file(name: str) -> Path:
    return RESULTS / f"tokens-{name}.json"


if __name__ == "__main__":
    main()
