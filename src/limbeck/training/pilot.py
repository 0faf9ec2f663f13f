"""A trial step of the student, by which its teacher learns to teach (MetaDistil, Zhou et al. 2022, arXiv:2106.04570)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from limbeck.data.batch import Batch
from limbeck.data.examples import Examples
from limbeck.errors import LimbeckError
from limbeck.losses.taught import followed
from limbeck.objective import Labels, Objective
from limbeck.objective.schedules import Place
from limbeck.signals.call import call, logits_of
from limbeck.signals.capture import evaluating
from limbeck.training.optimizers import optimizer, rate
from limbeck.training.order import Order, derived
from limbeck.training.stage import Stage

Weights: TypeAlias = Mapping[str, Tensor]
_LOGITS = frozenset({"logits"})


def quiz_gradient(
    lesson: Callable[[], Tensor],
    quiz: Callable[[Weights], Tensor],
    student: Weights,
    teacher: Sequence[Tensor],
    trial_rate: float,
) -> tuple[Tensor, list[Tensor]]:
    """The quiz's loss after a trial step, and its gradient with respect to the teacher.

    The trial step is ``theta' = theta - trial_rate * grad lesson``. The gradient is exact and of second order,
    ``-trial_rate * d/d phi <grad_theta lesson(theta, phi), v>`` with ``v = grad quiz(theta')``, which is a constant for phi.

    Args:
        lesson: the student's loss, a scalar with a graph to ``student`` and ``teacher``; called once.
        quiz: the loss of the stepped student, a scalar; the stepped weights by the names of ``student``.
        student: theta, those that learn.
        teacher: phi, those that learn.
        trial_rate: the learning rate of the trial step.

    Returns:
        The quiz's loss without a graph, and one gradient for each of ``teacher``; zeros where nothing leads to it.

    Raises:
        LimbeckError: no gradient leads from the lesson to the teacher.
    """
    with torch.enable_grad():
        slopes = torch.autograd.grad(lesson(), list(student.values()), create_graph=True, allow_unused=True)
        moved = {name: slope for name, slope in zip(student, slopes, strict=True) if slope is not None}
        stepped = {
            name: (one - trial_rate * moved[name] if name in moved else one).detach().requires_grad_()
            for name, one in student.items()
        }
        value = quiz(stepped)
        wanted = torch.autograd.grad(value, [stepped[name] for name in moved], allow_unused=True)
        both = zip(moved.values(), wanted, strict=True)
        products = [(slope * one).sum() for slope, one in both if one is not None and slope.requires_grad]
        if not products:
            raise LimbeckError("The objective has no gradient that leads to the teacher: add soft-targets, say.")
        found = torch.autograd.grad(torch.stack(products).sum(), list(teacher), allow_unused=True)
    if all(one is None for one in found):
        raise LimbeckError("The objective has no gradient that leads to the teacher: add soft-targets, say.")
    return value.detach(), [
        torch.zeros_like(one) if slope is None else -trial_rate * slope
        for one, slope in zip(teacher, found, strict=True)
    ]


class Pilot:
    """Teaches the teacher before each step of the student; see `limbeck.training.stage.Pen`.

    The student takes a trial step on the batch: the same mode, the same draws of its dropout as in the step that comes, plain
    gradient descent. What it is then answers a batch of the quiz, in evaluation mode, and the teacher takes a step of the
    student's kind of optimiser, without decay, so that the quiz's cross-entropy becomes smaller. The student itself, its buffers
    and the random state stay as they are. In float32.

    Args:
        stage: the training; its teacher is a `LearningTeacher`, and its terms read logits.
        student: as it is trained.
        quiz: rows with labels that the student does not learn from.
        trial_rate: the learning rate of the trial step.
        teacher_rate: the teacher's peak learning rate, which rises and falls as the student's does.
        device: where they live.
    """

    def __init__(
        self,
        stage: Stage,
        student: nn.Module,
        quiz: Examples,
        trial_rate: float,
        teacher_rate: float,
        device: torch.device | str,
    ) -> None:
        assert stage.teacher is not None
        assert stage.teacher.module is not None
        self._training, self._side, self._device = stage.training, stage.side, device
        self._teacher, self._student = stage.teacher.module, _Answers(student)
        self._lesson, self._exam = (Objective(terms, stage.examples.task) for terms in (stage.terms, (Labels(),)))
        self._trial_rate, self._teacher_rate = trial_rate, teacher_rate
        self._learning = [one for one in self._teacher.parameters() if one.is_floating_point()]
        group: dict[str, object] = {"params": self._learning, "weight_decay": 0.0}
        self._optimiser = optimizer(stage.training.optimizer, [group])
        size = min(stage.training.batch_size, len(quiz))
        self._quiz, self._order = quiz, Order(quiz.rows, size, derived(stage.seed, "quiz"), 0)
        self._sum, self._steps = 0.0, 0

    def written(self, student: nn.Module, micros: Sequence[Batch], place: Place) -> list[Batch]:
        """See `limbeck.training.stage.Pen`: the same batches, after the teacher has learnt from them.

        Raises:
            LimbeckError: the quiz's loss or its gradient is not finite.
        """
        device = torch.device(self._device)
        devices = [device] if device.type == "cuda" else []
        # nothing but the plain kernel of attention can be followed twice
        with torch.random.fork_rng(devices), torch.autocast(device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            value, gradients = self._gradients(micros, place)
        if not all(bool(one.isfinite().all()) for one in (value, *gradients)):
            raise LimbeckError(
                f"After the trial step before step {place.step} the quiz's loss ({float(value):.4g}) or its gradient for the "
                "teacher is not finite: a lower regime.trial-learning-rate or regime.teacher-learning-rate usually helps."
            )
        for one, gradient in zip(self._learning, gradients, strict=True):
            one.grad = gradient
        share = rate(self._training, place.step) / self._training.optimizer.learning_rate
        for group in self._optimiser.param_groups:
            group["lr"] = self._teacher_rate * share
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._sum, self._steps = self._sum + float(value), self._steps + 1
        return list(micros)

    def _gradients(self, micros: Sequence[Batch], place: Place) -> tuple[Tensor, list[Tensor]]:
        # copies: a pass in training mode counts for BatchNorm's statistics
        buffers = {name: one.clone() for name, one in self._student.named_buffers()}
        weights = {name: one for name, one in self._student.named_parameters() if one.requires_grad}
        self._lesson.at(place)

        def lesson() -> Tensor:
            counts, losses = self._lesson.total_counts(micros), list[Tensor]()
            with followed():
                for batch in micros:
                    said = functional_call(self._student, buffers, (batch.columns(self._side),))
                    theirs = logits_of(call(self._teacher, batch.columns("teacher")))
                    losses.append(self._lesson({"logits": said}, {"logits": theirs}, batch, counts)[0])
            return torch.stack(losses).sum()

        ids, views = self._order.step(place.step)
        asked = self._quiz.batch(ids, views).to(self._device)

        def quiz(stepped: Weights) -> Tensor:
            with evaluating(self._student):
                said = functional_call(self._student, {**buffers, **stepped}, (asked.columns(self._side),))
            loss: Tensor = self._exam({"logits": said}, None, asked)[0]
            return loss

        return quiz_gradient(lesson, quiz, weights, self._learning, self._trial_rate)

    def told(self) -> dict[str, float]:
        """The mean loss of the quiz since this was last asked, nats."""
        told = {"quiz": self._sum / self._steps} if self._steps else {}
        self._sum, self._steps = 0.0, 0
        return told

    def kept(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The teacher's optimiser, and what was not told yet; the teacher keeps its own."""
        return {"optimiser": self._optimiser.state_dict(), "sum": self._sum, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts them back."""
        self._optimiser.load_state_dict(state["optimiser"])
        self._sum, self._steps = state["sum"], state["steps"]


class _Answers(nn.Module):
    """A model as what gives logits for columns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, columns: dict[str, Tensor]) -> Tensor:
        """Logits, [B, ...]."""
        return logits_of(call(self.model, columns))
