"""A student to ask: raw things in, answers out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data.reader import Reader
from limbeck.data.task import ASKED, Task, at_tokens
from limbeck.data.tasks import CLASSES
from limbeck.errors import LimbeckError
from limbeck.losses.storages import whole
from limbeck.models.generation import generated
from limbeck.signals.capture import show


@dataclass(frozen=True, repr=False)
class Student:
    """A delivered model with all that it needs to answer.

    ``module`` gives logits as ``task`` says, of classes [B, classes]; ``reader`` turns raw things into its columns;
    ``classes`` are the names of its outputs. ``metadata``: what was written down when it was saved.
    """

    module: nn.Module
    reader: Reader
    classes: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    task: Task = CLASSES

    def __repr__(self) -> str:
        """One line; the modules and their weights are in ``module``."""
        names = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        what = f"{len(self.classes)} {self.task.outputs}" if self.task.outputs else self.task.name
        count = sum(parameter.numel() for parameter in self.module.parameters())
        kind = type(self.module).__name__
        return f"<{type(self).__name__}: {kind} with {count:,} parameters, {what} ({names})>"

    def logits(self, raw: Sequence[Any], batch_size: int = 64) -> Tensor:
        """Logits, float32, on the CPU; in evaluation mode, ``batch_size`` at a time.

        Of classes [len(raw), classes], of tokens [len(raw), length, ...], 0 after the end of a shorter text; vectors are
        [len(raw), 1, width] of texts, [len(raw), 2, width] of pairs.

        Raises:
            LimbeckError: ``raw`` is one thing instead of several.
            DataError: some cannot be read.
        """
        if isinstance(raw, str | bytes | Mapping) or not hasattr(raw, "__len__"):
            raise LimbeckError("Give a list of things to answer, even for a single one.")
        device = next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))
        found = []
        with torch.inference_mode():
            for start in range(0, len(raw), batch_size):
                columns = self.reader.encode(raw[start : start + batch_size])
                columns = {name: value.to(device) for name, value in columns.items()}
                found.append(whole(show(self.module, columns)["logits"]).float().cpu())
        if not found:
            return torch.empty([max(0, size) for size in self.task.shape(0, 0, len(self.classes))])
        return torch.cat(_one_length(found))

    def probabilities(self, raw: Sequence[Any], batch_size: int = 64) -> NDArray[np.float32]:
        """Probabilities, float32: of classes [len(raw), classes], each row sums to 1; of labels [len(raw), labels], each of
        its own; of tags [len(raw), length, tags].

        Raises:
            LimbeckError: the task is spans, numbers or vectors.
        """
        found: NDArray[np.float32] = self.task.probabilities(self.logits(raw, batch_size)).numpy()
        return found

    def predict(self, raw: Sequence[Any], batch_size: int = 64) -> list[Any]:
        """Each one's answer: the name of the most probable class; the list of the labels that hold; the number, or a tuple of
        them; the list of (word, tag); the letters of the answer, ``""`` for none; the vector of a text, a list of floats.
        """
        if self.task.gives == "tokens":
            raise LimbeckError("A language model says what it writes: use generate().")
        logits, places = self.logits(raw, batch_size), self._places(raw)
        if not len(raw):
            return []
        labels = torch.full((len(raw), 1), ASKED)  # of nothing that is asked the label is known
        if places is not None:
            labels = self.task.placed(labels.expand(-1, 2), places)
        return self.task.said(self.task.hard(logits, labels), raw, places, self.classes)

    def generate(self, prompts: Sequence[str], most: int = 64, temperature: float = 0.0, seed: int = 0) -> list[str]:
        """What a language model writes after each prompt; see `limbeck.models.generation.generated`.

        Raises:
            LimbeckError: it is no language model.
        """
        if self.task.gives != "tokens":
            raise LimbeckError(f"This student's task is {self.task.name!r}: it answers with predict().")
        return generated(self.module, cast(Any, self.reader).tokenizer, prompts, most, temperature, seed)

    def _places(self, raw: Sequence[Any]) -> Tensor | None:
        """Where the tokens stand, if answers stand at tokens of texts."""
        find = getattr(self.reader, "places", None)
        return find(raw) if find and at_tokens(self.task) and len(raw) else None


def _one_length(parts: Sequence[Tensor]) -> list[Tensor]:
    """Logits [B, length, C] of one length; others as they are."""
    longest = max(part.shape[1] for part in parts)
    return [F.pad(part, (0, 0, 0, longest - part.shape[1])) if part.ndim == 3 else part for part in parts]
