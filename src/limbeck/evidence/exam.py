"""`Exam`: what all arms were asked, and the true answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.data.measure import Measure
from limbeck.data.task import Answered, Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Exam:
    """What all arms were asked, with the true answers.

    ``labels``: int64 [M], of numbers float64 [M, d], of vectors which text of its example each is of, 0 or 1. ``example``:
    int64 [M], whose answer each is, from 0 to ``examples`` - 1, ascending. ``names``: of the model's outputs; None: their
    numbers.
    """

    task: Task
    labels: NDArray[Any]
    example: Ints
    examples: int
    names: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls, labels: Any, names: Sequence[str] | None = None, task: Task = CLASSES, example: Any | None = None
    ) -> "Exam":
        """The exam of these answers; ``example``: None if each example has one.

        Raises:
            DataError: an example without an answer, or labels of another kind.
        """
        numbers = task.gives == "numbers"
        found = np.asarray(labels, dtype=np.float64) if numbers else np.asarray(labels)
        if found.ndim != 1 + numbers or not len(found):
            raise DataError(
                f"The test labels have shape {list(found.shape)}: expected {'[N, d]' if numbers else '[N]'}."
            )
        whose = np.arange(len(found)) if example is None else np.asarray(example, dtype=np.int64)
        count = int(whose[-1]) + 1
        if len(whose) != len(found) or len(np.unique(whose)) != count or (np.diff(whose) < 0).any():
            raise DataError("Some test example has no answer with a label: leave it out, or label it.")
        return cls(task, found, whose, count, None if names is None else tuple(names))

    @property
    def measure(self) -> Measure:
        """What the mean score is called."""
        return Measure.of(self.task)

    @property
    def binary(self) -> bool:
        """Whether an example is right or wrong, with nothing between."""
        return self.task.single and self.task.gives == "choices"

    @property
    def named(self) -> bool:
        """Whether what is chosen from has names."""
        return self.task.named

    @property
    def place(self) -> Ints | None:
        """Which of its example's answers each is, int64 [M]; None where examples have unequal numbers of them."""
        count = np.bincount(self.example)
        if (count != count[0]).any():
            return None
        found: Ints = np.arange(len(self.example)) % count[0]
        return found

    def checked(self, logits: Any, what: str = "The predictions") -> Floats:
        """The answers of one model as float64 [M, C].

        Raises:
            DataError: shapes that do not fit, logits that are not finite, or labels outside 0..C-1.
        """
        z, y = np.asarray(logits, dtype=np.float64), self.labels
        numbers = self.task.gives == "numbers"
        if z.ndim != 2 or len(z) != len(y) or (z.shape != y.shape if numbers else z.shape[1] < 2):
            expected = "the same shape" if numbers else "[N, C] and [N] with C >= 2"
            raise DataError(f"{what} have shape {list(z.shape)} and the labels {list(y.shape)}: expected {expected}.")
        if not np.isfinite(z).all():
            bad = int((~np.isfinite(z)).any(1).sum())
            unit = "test examples" if self.task.single else "answers"
            raise DataError(f"{what} are not finite for {bad} of {len(z)} {unit}: the training diverged.")
        if numbers:
            if not np.isfinite(y).all():
                raise DataError("The test labels must be finite numbers, every example labelled.")
        elif self.task.gives == "tokens":
            return z
        elif not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= z.shape[1]:
            raise DataError(
                f"The test labels must be whole numbers from 0 to {z.shape[1] - 1}, every example labelled."
            )
        return z

    def scores(self, logits: Any) -> Floats:
        """How good the answers to each example are, float64 [examples]."""
        spread = 1.0
        if self.task.gives == "numbers":
            spread = float(np.square(self.labels - self.labels.mean(0)).mean())
        given = torch.from_numpy(np.ascontiguousarray(logits))
        truth, example = torch.from_numpy(np.ascontiguousarray(self.labels)), torch.from_numpy(self.example)
        found: Floats = self.task.scores(Answered(given, truth, example, self.examples, spread)).numpy()
        return found

    def floor(self) -> float:
        """The mean score of the best answer that is the same for every example."""
        if self.task.single:
            return self.task.floor(torch.from_numpy(self.labels))
        count = np.bincount(self.example)
        rows = np.full((self.examples, count.max()), -100)
        rows[self.example, np.arange(len(self.example)) - np.repeat(np.cumsum(count) - count, count)] = self.labels
        return self.task.floor(torch.from_numpy(rows))

    def mean_by_example(self, values: Floats) -> Floats:
        """The mean over each example's answers of [M], float64 [examples]."""
        return np.bincount(self.example, weights=values) / np.bincount(self.example)
