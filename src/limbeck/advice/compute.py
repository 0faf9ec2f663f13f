"""What a training costs in floating-point operations: counted on a few of its own batches, and not on a clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from limbeck.objective.schedules import Place
from limbeck.training.loop import Engine, build_objective
from limbeck.training.order import Steps
from limbeck.training.stage import Stage

_STEPS, _DRAWS = 2, 8  # whose mean is taken: texts differ in length, and not every step may have written ones


@dataclass(frozen=True)
class StepCost:
    """FLOPs of one optimiser step.

    ``student``: its forward and backward pass with its objective. ``teacher``: asking it. ``writing``: what is written in it.
    """

    student: float
    teacher: float
    writing: float = 0.0

    @property
    def whole(self) -> float:
        """All of it."""
        return self.student + self.teacher + self.writing


def step_cost(stage: Stage, device: str) -> StepCost:
    """What a step of the stage costs, by the mean of its first ones; where texts are written, of some from its whole length.

    Products of matrices, convolutions and attention are counted, a multiplication and an addition as two; they are nearly
    all of the work of a deep network. Depends on the shapes alone, so it comes out the same every time. A teacher that does its
    work elsewhere costs 0.
    """
    student = stage.model()
    stage = stage.begun(student)
    objective = build_objective(stage, student).to(device)
    engine = Engine(student.to(device), objective, stage.side).train()
    settings, wanted = stage.training, objective.needs().teacher
    steps = Steps(stage.examples, stage.order(), settings.accumulate)
    pen = stage.writing.pen(stage, student) if stage.writing else None
    done, taught, learnt, wrote = min(_DRAWS if pen else _STEPS, settings.total), 0, 0, 0
    with torch.random.fork_rng():
        for step in range(done) if pen is None else (place * settings.total // done for place in range(done)):
            batches = [batch.to(device) for batch in steps[step]]
            if pen:
                with counting() as writing:
                    batches = pen.written(student, batches, Place(step, settings.total))
                wrote += writing.get_total_flops()
            counts = objective.total_counts(batches)
            for batch in batches:
                with counting() as theirs:
                    seen = stage.teacher.observe(batch, wanted) if stage.teacher and wanted else {}
                with counting() as ours:
                    engine(batch, seen, counts)[0].backward()
                taught, learnt = taught + theirs.get_total_flops(), learnt + ours.get_total_flops()
    engine.capture.close()
    return StepCost(learnt / done, taught / done, wrote / done)


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts the FLOPs of what is done within. Attention is taken apart: some of its kernels are not counted whole."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter
