"""The loop: the only place that steps an optimiser over a model."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck.data.batch import WRITTEN, Batch
from limbeck.data.examples import Examples
from limbeck.data.task import Answered, answered, joined
from limbeck.errors import Interrupted, LimbeckError, SignalError
from limbeck.models.seeded import seeded
from limbeck.objective import Objective
from limbeck.objective.crossed import vocabularies
from limbeck.objective.schedules import Place
from limbeck.signals.capture import Capture, Signals, bare, show
from limbeck.teachers.past import MovingAverage
from limbeck.training import launch, pieces, sharding
from limbeck.training.guard import Interrupt, explained
from limbeck.training.memory import keep_freed
from limbeck.training.moments import MOMENTS, Best, Curve, tell
from limbeck.training.optimizers import MaxNorm, clip, groups, optimizer, rate
from limbeck.training.order import Order, Steps, derived
from limbeck.training.resumable import Resumable, agreed
from limbeck.training.silence import Silence
from limbeck.training.stage import Stage

T = TypeVar("T")


class Engine(nn.Module):
    """Student and objective as one module, so that there is one forward, one backward and one optimiser step."""

    def __init__(self, student: nn.Module, objective: Objective, side: str = "student") -> None:
        super().__init__()
        self.side = side
        self.student = student
        self.objective = objective
        self.capture = Capture(student, objective.needs().student)

    def forward(
        self, batch: Batch, teacher: Signals | None, counts: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts; see `Objective`."""
        return self.objective(  # type: ignore[no-any-return]
            self.capture(batch.columns(self.side), keys=batch.keys), teacher, batch, counts
        )

    def during(self, work: Callable[[], T]) -> T:
        """Does something with the student while its weights are here: they may be divided among processes."""
        return work()


Watch = Callable[[Stage, Curve], Sequence[object]]
"""Makes what observes a training: told the moments, it may read the curve."""


@dataclass(frozen=True)
class Outcome:
    """What a training gave: the delivered weights, their validation metrics, the curve, the seconds it took, and what was made
    anew in it to be shown.
    """

    weights: dict[str, Tensor]
    metrics: dict[str, float]
    points: list[dict[str, Any]]
    seconds: float
    kept: dict[str, Tensor] = field(default_factory=dict)


def build_objective(stage: Stage, student: nn.Module, rows: int = 8) -> Objective:
    """The stage's objective, its projectors fitted to a few of the stage's own examples."""
    objective = Objective(stage.terms, stage.examples.task)
    objective.check(stage.teacher.provides if stage.teacher else None)
    comparing = [name for name, term in zip(objective.names, objective.terms, strict=True) if term.scope == "batch"]
    if comparing and stage.training.accumulate > 1:
        raise SignalError(
            f"The term {comparing[0]!r} compares the examples of a batch with each other, and with accumulate: "
            f"{stage.training.accumulate} it would only see a part of them at a time: leave accumulate out."
        )
    if stage.writing is None and any(term.mask == WRITTEN for term in stage.terms):
        raise SignalError(
            f"A term of {stage.name} learns from texts that the student writes (texts: written), and nobody writes any: set "
            "'regime: on-policy', or leave 'texts' out."
        )
    few = stage.examples.rows[:rows]
    view = Order(few, rows, stage.seed, stage.views).view(0)  # a store may hold none but the views of the training
    batch = stage.examples.batch(few, torch.full_like(few, view))
    needs = objective.needs()
    with _whose("teacher"):
        seen = stage.teacher.observe(batch, needs.teacher) if stage.teacher and needs.teacher else {}
    with _whose("student"):
        ours = show(student, batch.columns(stage.side), needs.student, batch.keys)
    objective.build(
        ours,
        {**seen, **vocabularies(stage.terms, stage.examples)},
        derived(stage.seed, "objective"),
        len(stage.examples.labels),
        batch,
    )
    return objective


@contextmanager
def _whose(side: str) -> Iterator[None]:
    """Says of which model it is that a signal is missing: both may be of one kind."""
    try:
        yield
    except SignalError as error:
        raise SignalError(f"The {side} does not show what is asked: {error}") from error


def train(stage: Stage, folder: Path, watch: Watch = lambda stage, curve: ()) -> Outcome:
    """Trains the stage's model, going on from the newest checkpoint in ``folder`` if there is one.

    What ``watch`` gives is told the moments too, after the parts that training itself consists of.

    Raises:
        Interrupted: the user asked to stop; the last step is in a checkpoint.
        LimbeckError: a loss or gradient is not finite, or memory or disk ran out.
    """
    keep_freed()
    accelerator = launch.accelerator(stage.training.precision)
    with seeded(derived(stage.seed, "training", accelerator.process_index)), explained(stage.training):
        return _train(stage, folder, accelerator, watch)


def _train(stage: Stage, folder: Path, accelerator: Accelerator, watch: Watch) -> Outcome:
    settings, began = stage.training, time.monotonic()
    student = stage.model()
    stage = stage.begun(student)
    averaged = (
        MovingAverage(student, settings.average) if settings.average else None
    )  # before anything hooks the student
    judged = averaged.module if averaged else student
    objective = build_objective(stage, student)
    engine = Engine(student, objective, stage.side)
    pen = stage.writing.pen(stage, student) if stage.writing else None
    best = Best(judged, settings.keep, settings.patience, stage.validation.task)
    curve = Curve(objective.shares, pen.told if pen else dict)
    silence = Silence(stage, objective.names, accelerator)
    parts = [
        getattr(student, MOMENTS, None),
        MaxNorm(settings.max_norm) if settings.max_norm else None,
        averaged,
        objective,
        silence,
        best,
        curve,
        pen,
        stage.teacher if stage.past else None,
        *(one.part(stage, student) for one in stage.keeping),
        *(watch(stage, curve) if accelerator.is_main_process else ()),
    ]
    model, optimiser = _prepared(accelerator, engine.train(), stage)
    if averaged:
        averaged.module.to(accelerator.device)
    resumable = Resumable(folder, accelerator, engine, optimiser, parts)
    first, spent = resumable.load()
    steps = Steps(
        stage.examples, stage.order(), settings.accumulate, accelerator.process_index, accelerator.num_processes
    )
    with Interrupt() as interrupt:
        for step, micros in enumerate(steps.iterate(first, settings.total, settings.workers), start=first):
            tell(parts, "at", Place(step, settings.total))
            for group in optimiser.param_groups:
                group["lr"] = group["factor"] * rate(settings, step)
            batches = [batch.to(accelerator.device) for batch in micros]
            if pen:
                with accelerator.autocast():
                    batches = pen.written(student, batches, Place(step, settings.total))
            loss, shown = _step(stage, accelerator, model, optimiser, batches, parts)
            silence.add(shown)
            curve.add(loss, shown)
            place = Place(step + 1, settings.total)
            tell(parts, "stepped", student, place)
            done = place.step == settings.total
            if done or place.step % settings.between_evaluations == 0:
                _check_weights(accelerator, engine, stage, place)
                measured = partial(evaluate, judged, stage.validation, accelerator, stage.side)
                metrics = cast(Engine, bare(model)).during(measured)
                if tell(parts, "evaluated", metrics, place) or done:
                    break
            asked = agreed(accelerator, interrupt.asked)
            if asked or resumable.due(place, settings.checkpoint_every):
                _check_weights(accelerator, engine, stage, place)
                resumable.save(place, spent + time.monotonic() - began)
            if asked:
                raise Interrupted(
                    f"Stopped after step {place.step} of {settings.total} of {stage.name}; nothing is lost."
                )
    engine.capture.close()
    kept = pen.kept() if pen else {}
    return Outcome(best.weights, best.metrics, curve.points, spent + time.monotonic() - began, kept)


def _prepared(accelerator: Accelerator, engine: Engine, stage: Stage) -> tuple[nn.Module, Any]:
    """The engine and its optimiser, wrapped for one process or several."""
    settings = stage.training.optimizer

    def made() -> torch.optim.Optimizer:
        owned = engine.objective.owned()
        return optimizer(settings, groups(engine.student, owned, settings.weight_decay))

    if launch.asked():
        sharding.demand(
            engine.student,
            engine.objective,
            stage.writing is not None,
            stage.past is not None,
            stage.keeping,
            stage.training.average is not None,
        )
        return sharding.divided(accelerator, engine, made)
    return accelerator.prepare(engine, made())  # type: ignore[no-any-return]


def _step(
    stage: Stage,
    accelerator: Accelerator,
    model: nn.Module,
    optimiser: Any,
    batches: Sequence[Batch],
    parts: Sequence[object],
) -> tuple[float, dict[str, float]]:
    """One optimiser step over micro-batches; denominators are counted over all of them, and all processes, first."""
    objective: Objective = bare(model).objective  # type: ignore[assignment]
    wanted = objective.needs().teacher
    counts = objective.total_counts(batches)
    if accelerator.num_processes > 1:
        counts = {mask: accelerator.reduce(count, "sum") for mask, count in counts.items()}
    total, shown, divided = 0.0, dict[str, float](), sharding.is_divided(model)
    for batch in batches:
        with nullcontext() if batch is batches[-1] else accelerator.no_sync(model):
            seen = stage.teacher.observe(batch, wanted) if stage.teacher and wanted else None
            with accelerator.autocast() if divided else nullcontext():  # else a part of the wrapper
                loss, values = model(batch, seen, counts)
            accelerator.backward(loss * accelerator.num_processes)  # processes are averaged, denominators are global
        total += float(loss.detach())
        for name, value in values.items():
            shown[name] = shown.get(name, 0.0) + float(value)
    if divided:
        sharding.settle(model)
    accelerator.unscale_gradients(optimiser)
    tell(parts, "gradients", model)
    norm = clip(optimiser.param_groups, stage.training.clip)
    if not isfinite(total) or (not isfinite(norm) and stage.training.precision != "fp16"):  # fp16 skips such a step
        raise LimbeckError(
            f"The {'loss' if not isfinite(total) else 'gradient'} of {stage.name} is not finite "
            f"(parts: {', '.join(f'{name} {value:.4g}' for name, value in shown.items())}). Nothing was updated with it. "
            "A lower learning rate, a longer warm-up or precision bf16 in place of fp16 usually helps."
        )
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return total, shown


def _check_weights(accelerator: Accelerator, engine: nn.Module, stage: Stage, place: Place) -> None:
    """A finite gradient can still make an update that is not; such weights are neither saved nor delivered."""
    finite = all(bool(pieces.local(parameter).isfinite().all()) for parameter in engine.parameters())
    if agreed(accelerator, not finite):
        raise LimbeckError(
            f"After step {place.step} the weights of {stage.name} are not finite; they were not saved. "
            "A lower learning rate or a longer warm-up usually helps."
        )


@torch.no_grad()
def evaluate(
    student: nn.Module, examples: Examples, accelerator: Accelerator, side: str = "student", rows: int = 256
) -> dict[str, float]:
    """The task's measure, and the mean of its costs (``nll`` in nats, of numbers ``mse``, of vectors ``distance``), on all
    examples as they are; the processes share the rows, and vectors are ranked among those of one process. The mode is put back.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    task, spread = examples.task, examples.spread
    mine = examples.rows[examples.by_length()][accelerator.process_index :: accelerator.num_processes]
    turns = -(-len(examples) // (rows * accelerator.num_processes))  # the same in all processes

    def answers() -> Iterator[Answered]:
        for turn in range(turns):
            ids = mine[turn * rows : (turn + 1) * rows]
            asked = ids if len(ids) else examples.rows[:1]  # the others may need this process for their weights
            batch = examples.batch(asked, torch.zeros_like(asked)).to(accelerator.device)
            logits = show(student, batch.columns(side))["logits"]
            if len(ids):
                yield answered(task, logits, batch, spread)

    every = list(answers()) if task.gives == "vectors" else []
    for found in [joined(every)] if every else answers():
        cost = task.costs(found)
        counts = torch.tensor([found.examples, len(cost)])
        sums += torch.stack([task.scores(found).sum(), cost.sum(), *counts]).double()
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums.to(accelerator.device), "sum").cpu()
    score, cost, count, many = sums.tolist()
    return {task.measure: score / count, task.cost: cost / max(1, many)}
