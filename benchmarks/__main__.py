"""`make bench`: what limbeck adds to a bare PyTorch loop, what the store saves, how fast the command answers."""

import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from limbeck.data.sources import Data
from limbeck.losses import kl_divergence
from limbeck.models.specs import BuildContext, Mlp, SmallCnn, SmallResnet, Spec, build
from limbeck.objective import Labels, SoftTargets
from limbeck.objective.schedules import Fixed
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.training.loop import train
from limbeck.training.order import Order, derived
from limbeck.training.settings import Training
from limbeck.training.stage import Stage, Start

STEPS, ROUNDS = 150, 5
RESULTS = Path(__file__).parent / "results" / "bench.md"


def turns(variants: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median of what each variant returns, measured in turns so that whatever disturbs one disturbs all."""
    seen: dict[str, list[float]] = {name: [] for name in variants}
    for name in variants:
        variants[name]()  # warm-up
    for _ in range(rounds):
        for name, variant in variants.items():
            seen[name].append(variant())
    return {name: median(values) for name, values in seen.items()}


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bare_loop(stage: Stage, teacher: torch.nn.Module) -> None:
    """The same training by hand: same data, loss and optimiser, nothing else."""
    student = stage.start.module()
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-3)
    order = Order(stage.examples.rows, stage.training.batch_size, derived(stage.seed, "data"), stage.views)
    for step in range(stage.training.total):
        batch = stage.examples.batch(*order.step(step))
        x, y = batch.inputs["pixel_values"], batch.labels["class"]
        with torch.no_grad():
            target = teacher(x)
        logits = student(x)
        loss = 0.1 * F.cross_entropy(logits, y) + 0.9 * kl_divergence(logits, target, 4.0).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()


def training_rows() -> list[tuple[str, str, str]]:
    """Time of a training against the bare loop, with the teacher asked live and read from a store."""
    splits = Data.model_validate({"source": "mnist-5k", "augment": {"shift": 2}, "views": 2}).load()
    sample = splits.train.batch(splits.train.rows[:4], torch.zeros(4, dtype=torch.int64)).columns("student")
    context = BuildContext(10, sample, splits.classes)
    module = build(SmallResnet(width=16), context, 0).eval()
    teacher = LocalTeacher(module, "benchmark")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cached = CachedTeacher(teacher, Path(folder), splits.train.inputs_fingerprint)
        label(cached, splits.train, (1, 2), 256, frozenset({"logits"}))
        for name, spec in (("multilayer perceptron, 25 k", Mlp(hidden=32)), ("convolutional, small-cnn", SmallCnn())):
            stage = _stage(spec, context, splits.train, splits.validation)

            def bare(stage: Stage = stage) -> float:
                return seconds(lambda: bare_loop(stage, module))

            def ours(asked: Teacher, stage: Stage = stage) -> float:
                return seconds(lambda: train(_taught(stage, asked), Path(folder) / "none"))

            found = turns(
                {
                    "bare": bare,
                    "live": partial(ours, teacher),
                    "stored": partial(ours, cached),
                }
            )
            rows.append(
                (f"training, {name}: teacher asked live / bare loop", f"{found['live'] / found['bare']:.2f}", "")
            )
            rows.append(
                (f"training, {name}: teacher from a store / bare loop", f"{found['stored'] / found['bare']:.2f}", "")
            )
    return rows


def _stage(spec: Spec, context: BuildContext, train_rows, validation) -> Stage:  # type: ignore[no-untyped-def]
    terms = (Labels(weight=Fixed(value=0.1)), SoftTargets(weight=Fixed(value=0.9)))
    settings = Training(steps=STEPS, evaluate_every=STEPS)
    return Stage("benchmark", Start(spec, 0, context), terms, train_rows, validation, settings, None, 2, 0)


def _taught(stage: Stage, teacher: Teacher) -> Stage:
    from dataclasses import replace

    return replace(stage, teacher=teacher)


def command_rows() -> list[tuple[str, str, str]]:
    """How long the command takes to answer."""
    command = shutil.which("limbeck") or str(Path(sys.executable).parent / "limbeck")
    found = turns(
        {
            "limbeck": lambda: seconds(lambda: subprocess.run([command, "--help"], capture_output=True, check=True)),
            "python": lambda: seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True)),
        }
    )
    return [("limbeck --help", f"{found['limbeck']:.2f} s", f"an empty Python: {found['python']:.2f} s")]


def main() -> None:
    """Measures everything and writes the table."""
    rows = [*training_rows(), *command_rows()]
    table = "\n".join(f"| {what} | {value} | {note} |" for what, value, note in rows)
    machine = f"{platform.machine()}, {torch.get_num_threads()} torch thread(s), {platform.system()}"
    RESULTS.write_text(
        "# Measured by `make bench`\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, torch {torch.__version__}, Python {platform.python_version()}. "
        f"Medians of {ROUNDS} rounds in turns, {STEPS} steps each, batch 64, MNIST-5k with shifts; one evaluation on the "
        "500 validation rows is in limbeck's time and not in the bare loop's.\n\n"
        f"| what | value | |\n|---|---|---|\n{table}\n"
    )
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
