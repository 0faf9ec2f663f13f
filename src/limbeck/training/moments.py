"""The four moments of training, and the parts of the loop that live in them.

A part defines the moments it cares for, and ``state_dict``/``load_state_dict`` if it must survive a kill:
``at(place)`` before a step; ``gradients(model)`` before clipping; ``stepped(model, place)`` after a real step;
``evaluated(metrics, place)``, which may return True to stop. They are told in a fixed order; nothing else may observe
training.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from limbeck.data.task import Task, rank
from limbeck.data.tasks import CLASSES
from limbeck.objective.schedules import Place
from limbeck.training.pieces import whole

Metrics = Mapping[str, float]
MOMENTS = "training_moments"
"""An attribute of a model that changes as training goes on: what is told the moments first."""


def tell(parts: Sequence[object], moment: str, *what: Any) -> bool:
    """Tells every part that defines the moment, in order; whether any of them asked to stop."""
    answers = [getattr(part, moment)(*what) for part in parts if hasattr(part, moment)]
    return any(answer is True for answer in answers)


class Best:
    """Keeps the weights that were best on validation (see `rank`), and stops when patience runs out."""

    def __init__(self, student: nn.Module, keep: str, patience: int | None, task: Task = CLASSES) -> None:
        self.student, self.keep, self.patience, self.task = student, keep, patience, task
        self.metrics: dict[str, float] = {}
        self.waited = 0
        self.weights: dict[str, Tensor] = {}

    def evaluated(self, metrics: Metrics, place: Place) -> bool:
        """Compares with the best so far."""
        better = not self.metrics or rank(self.task, metrics) > rank(self.task, self.metrics)
        if better or self.keep == "last":
            self.metrics = {**metrics, "step": float(place.step)}
            kept = self.student.state_dict().items()
            self.weights = {name: whole(value.detach()).cpu().clone() for name, value in kept}
        self.waited = 0 if better else self.waited + 1
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Best weights and metrics so far."""
        return {"metrics": self.metrics, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts them back."""
        self.metrics, self.waited, self.weights = state["metrics"], state["waited"], state["weights"]


class Curve:
    """The record of training: the loss and its parts, averaged between evaluations, and what each evaluation found."""

    def __init__(
        self, kept: Callable[[], Mapping[str, Any]] = dict, told: Callable[[], Mapping[str, float]] = dict
    ) -> None:
        """``kept``: what the gates kept so far. ``told``: further parts, of all steps since it was last asked."""
        self.points: list[dict[str, Any]] = []
        self._kept, self._told = kept, told
        self.latest: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, loss: float, parts: Mapping[str, float]) -> None:
        """One step's numbers."""
        self.latest = {"loss": loss, **parts}
        for name, value in self.latest.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1

    def evaluated(self, metrics: Metrics, place: Place) -> None:
        """Closes a point of the curve."""
        means = {name: value / max(1, self._steps) for name, value in self._sums.items()}
        loss = means.pop("loss", None)
        means |= self._told()
        self.points.append({"step": place.step, "loss": loss, "parts": means, "kept": dict(self._kept()), **metrics})
        self._sums, self._steps = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """The points and the open sums."""
        return {"points": self.points, "sums": self._sums, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts them back."""
        self.points, self._sums, self._steps = state["points"], state["sums"], state["steps"]
