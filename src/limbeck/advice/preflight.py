"""Preflight: a dry batch forward and backward through everything, before anything is spent."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.advice.memory import Memory, kept_bytes, memory
from limbeck.data.asked import asked
from limbeck.data.batch import NO_LABEL, Batch
from limbeck.data.examples import Examples
from limbeck.data.task import ASKED, Answered
from limbeck.errors import LimbeckError, PreflightError
from limbeck.losses.storages import carrier
from limbeck.models.adapters import merged
from limbeck.models.identity import of_module, parameters
from limbeck.models.same import same
from limbeck.objective import Objective
from limbeck.objective.schedules import Place
from limbeck.signals.capture import show
from limbeck.teachers.teacher import Teacher
from limbeck.training.guard import explained
from limbeck.training.loop import Engine, build_objective
from limbeck.training.memory import peak_bytes
from limbeck.training.optimizers import groups, optimizer
from limbeck.training.order import Steps
from limbeck.training.stage import Pen, Stage

_MOST, _ENOUGH = 10, 1.0  # steps that are timed, after the dry batch: as many as take a second
_LOOK = 64  # rows of a timed evaluation


@dataclass(frozen=True)
class Dry:
    """What one stage's dry batch showed.

    ``parts``: each term's mean. ``seconds``: of one step, from reading its rows to the optimiser. ``teacher_seconds``: of the
    teacher's share in it. ``pen_seconds``: of what makes inputs anew. ``row_seconds``: of one row in an evaluation.
    ``peak``: bytes of memory that the step needed at most, None where that cannot be measured. ``memory``: what it
    consists of. ``row_bytes``: of the teacher's signals for one row. ``silent``: parameters that got no gradient.
    """

    parts: dict[str, float]
    seconds: float
    teacher_seconds: float
    pen_seconds: float
    row_seconds: float
    peak: int | None
    memory: Memory
    row_bytes: int
    parameters: int
    silent: tuple[str, ...]


def dry_run(stage: Stage, device: str) -> Dry:
    """One batch of the stage, forward and backward, on copies; nothing is trained.

    A term that is zero where both sides are equal may be zero if the student starts as the teacher.

    Raises:
        PreflightError: a term is not finite, or exactly zero although its weight is above 0; nothing would be trained.
        SignalError: a module is not there or never runs; shapes that no projector can join.
    """
    _check_batch(stage)
    student = stage.model().to(device)
    stage = stage.begun(student)
    with _blamed():  # it asks the teacher for shapes; the student was tried when it was built
        objective = build_objective(stage, student.cpu()).to(device)
    engine = Engine(student.to(device), objective, stage.side).train()
    settings = stage.training
    batches = [batch.to(device) for batch in Steps(stage.examples, stage.order(), settings.accumulate)[0]]
    pen = stage.writing.pen(stage, student) if stage.writing else None
    if pen:
        batches = pen.written(student, batches, Place(0, settings.total))
    counts = objective.total_counts(batches)
    wanted, row_bytes, kept, parts = objective.needs().teacher, 0, 0, dict[str, float]()
    with torch.random.fork_rng(), explained(settings), peak_bytes(device) as peak:
        for batch in batches:
            with _blamed():
                seen = stage.teacher.observe(batch, wanted) if stage.teacher and wanted else {}
            row_bytes = sum(one[0].numel() * one.element_size() for one in map(carrier, seen.values()))
            with kept_bytes(student) as held:
                loss, shown = engine(batch, seen, counts)
            kept = max(kept, held.bytes)
            _demand_gradient(loss, student)
            loss.backward()
            for name, value in shown.items():
                parts[name] = parts.get(name, 0.0) + float(value)
        _check_terms(objective, parts, batches, counts, stage, student)
        silent = tuple(name for name, one in student.named_parameters() if one.requires_grad and one.grad is None)
        seconds, asked, wrote = _paced(stage, engine, device, pen)
        engine.capture.close()
        row_seconds = _looked(stage, student, device)
    return Dry(
        parts=parts,
        seconds=seconds,
        teacher_seconds=asked,
        pen_seconds=wrote,
        row_seconds=row_seconds,
        peak=peak.bytes,
        memory=memory(stage, student, kept),
        row_bytes=row_bytes,
        parameters=parameters(student),
        silent=silent,
    )


def _paced(stage: Stage, engine: Engine, device: str, pen: Pen | None) -> tuple[float, float, float]:
    """Seconds of a whole step after the first, of the teacher's share in it, and of the pen's. The learning rate is 0."""
    settings, objective = stage.training, engine.objective
    wanted = objective.needs().teacher
    optimiser = optimizer(
        settings.optimizer, groups(engine.student, objective.owned(), settings.optimizer.weight_decay)
    )
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    steps = Steps(stage.examples, stage.order(), settings.accumulate)
    spent, asked, wrote, done = 0.0, 0.0, 0.0, 0
    while spent < _ENOUGH and done < _MOST:
        began = _now(device)
        step = (done + 1 if pen is None else (done + 1) * settings.total // _MOST) % settings.total
        batches = [batch.to(device) for batch in steps[step]]
        if pen:
            before = _now(device)
            batches = pen.written(engine.student, batches, Place(step, settings.total))
            wrote += _now(device) - before
        counts = objective.total_counts(batches)
        for batch in batches:
            before = _now(device)
            seen = stage.teacher.observe(batch, wanted) if stage.teacher and wanted else {}
            asked += _now(device) - before
            engine(batch, seen, counts)[0].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        spent, done = spent + _now(device) - began, done + 1
    return spent / done, asked / done, wrote / done


@torch.no_grad()
def _looked(stage: Stage, student: nn.Module, device: str) -> float:
    """Seconds of one row in an evaluation."""
    rows = stage.validation.rows[:_LOOK]
    began = _now(device)
    show(student, stage.validation.batch(rows, torch.zeros_like(rows)).to(device).columns(stage.side))
    return (_now(device) - began) / len(rows)


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def _blamed() -> Iterator[None]:
    """Says that it was the teacher."""
    try:
        yield
    except (LimbeckError, torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # the user's module may fail in any way
        if any(words in str(error) for words in ("out of memory", "can't allocate memory")):
            raise
        raise PreflightError(f"The teacher fails on the first batch: {type(error).__name__}: {error}") from error


def _demand_gradient(loss: Tensor, student: nn.Module) -> None:
    if loss.requires_grad:
        return
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise PreflightError("The student has no parameter that may be trained: it has none, or all are frozen.")
    raise PreflightError(
        "No gradient reaches the student: its forward detaches what it gives, or runs without a graph (torch.no_grad), or all "
        "that leads to what the terms read is frozen."
    )


def _check_batch(stage: Stage) -> None:
    if stage.training.batch_size > len(stage.examples):
        raise PreflightError(
            f"batch-size is {stage.training.batch_size}, but {stage.name} has only {len(stage.examples)} training "
            f"examples: set {'teacher.' * (stage.name == 'teacher')}training.batch-size to {len(stage.examples)} or less, or "
            "that of the regime's own training, where it has one."
        )


def _check_terms(
    objective: Objective,
    parts: dict[str, float],
    batches: list[Batch],
    counts: dict[str, Tensor],
    stage: Stage,
    student: nn.Module,
) -> None:
    for name, term in zip(objective.names, objective.terms, strict=True):
        if name not in parts:
            continue
        value, kept = parts[name], round(int(counts[objective.counted_as(term)]) * parts.get(f"{name}.kept", 1.0))
        if value != value or value in (float("inf"), float("-inf")):
            raise PreflightError(
                f"The term {name!r} is {value} on the first batch: look for NaN or infinities in the inputs, "
                "the student's initial weights or the teacher's outputs."
            )
        if value == 0 and kept and not (term.zero_at_match and _starts_as_teacher(stage, batches[0])):
            raise PreflightError(
                f"The term {name!r} is exactly zero on the first batch although its weight is above 0 and {kept} examples "
                "count: the student would learn nothing from it. Do student and teacher share the module it reads?"
            )
    if not any(int(count) for count in counts.values()):
        raise PreflightError(
            f"None of the {sum(map(len, batches))} rows of the first batch has a label, and no term learns from others: set "
            "data.labelled-share to 0.25, say, or add a term of all rows, such as soft-targets."
        )
    if not any(p.grad is not None and bool((p.grad != 0).any()) for p in student.parameters()):
        raise PreflightError("No parameter of the student gets a gradient: the objective does not depend on it.")


def _starts_as_teacher(stage: Stage, batch: Batch) -> bool:
    """Adapters begin with a product of zero, what follows a student begins as it, and a larger copy answers as its donor."""
    if stage.past is not None:
        return True
    module = merged(stage.start.module())
    teacher = stage.teacher.module if stage.teacher is not None else None
    if stage.teacher is not None and of_module(module) == stage.teacher.fingerprint:
        return True
    apart = any(name.startswith("teacher.") for name in batch.inputs)
    if teacher is None or apart:
        return False
    return same(module, copy.deepcopy(teacher).cpu(), batch.to("cpu").columns(stage.side))


def check_labels(examples: Examples) -> None:
    """Labels must be classes, where they are any.

    Raises:
        PreflightError: some are not.
    """
    if not examples.task.named:
        return
    labels = examples.labels[examples.rows]
    hidden = (labels == NO_LABEL) | ((labels == ASKED) & (not examples.task.single))
    wrong = ~hidden & ((labels < 0) | (labels >= len(examples.classes)))
    if bool(wrong.any()):
        first, outputs = int(labels[wrong][0]), examples.task.outputs
        raise PreflightError(
            f"{int(wrong.sum())} labels are outside 0 to {len(examples.classes) - 1} (the first is {first}): there are "
            f"{len(examples.classes)} {outputs}."
        )


def answers_by(teacher: Teacher, examples: Examples, device: str) -> Answered:
    """What the teacher answers to ``examples`` as they are."""
    own = examples.as_read_by("teacher")
    return asked(lambda batch: teacher.observe(batch, frozenset({"logits"}))["logits"], own, device)


def score_of(teacher: Teacher, examples: Examples, device: str) -> float:
    """The teacher's mean score on ``examples`` as they are."""
    return float(examples.task.scores(answers_by(teacher, examples, device)).mean())


def floor_of(examples: Examples) -> float:
    """The mean score of the best answer that is the same for every example."""
    return examples.task.floor(examples.labels[examples.rows])
