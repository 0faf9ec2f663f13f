"""A student to ask: raw things in, classes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.data.examples import Reader
from limbeck.errors import LimbeckError
from limbeck.signals.capture import show


@dataclass(frozen=True, repr=False)
class Student:
    """A delivered model with all that it needs to answer.

    ``module`` gives logits [B, classes]; ``reader`` turns raw things into its columns; ``classes`` are their names.
    ``metadata``: what was written down when it was saved.
    """

    module: nn.Module
    reader: Reader
    classes: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """One line; the modules and their weights are in ``module``."""
        names = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        count = sum(parameter.numel() for parameter in self.module.parameters())
        kind = type(self.module).__name__
        return f"<{type(self).__name__}: {kind} with {count:,} parameters, {len(self.classes)} classes ({names})>"

    def logits(self, raw: Sequence[Any], batch_size: int = 64) -> Tensor:
        """Logits, float32 [len(raw), classes], on the CPU; in evaluation mode, ``batch_size`` at a time.

        Raises:
            LimbeckError: ``raw`` is one thing instead of several.
            DataError: some cannot be read.
        """
        if isinstance(raw, str | bytes | Mapping) or not hasattr(raw, "__len__"):
            raise LimbeckError("Give a list of things to classify, even for a single one.")
        device = next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))
        found = [torch.empty(0, len(self.classes))]
        with torch.inference_mode():
            for start in range(0, len(raw), batch_size):
                columns = self.reader.encode(raw[start : start + batch_size])
                columns = {name: value.to(device) for name, value in columns.items()}
                found.append(show(self.module, columns)["logits"].float().cpu())
        return torch.cat(found)

    def probabilities(self, raw: Sequence[Any], batch_size: int = 64) -> NDArray[np.float32]:
        """Probabilities, float32 [len(raw), classes]; each row sums to 1."""
        found: NDArray[np.float32] = self.logits(raw, batch_size).softmax(dim=1).numpy()
        return found

    def predict(self, raw: Sequence[Any], batch_size: int = 64) -> list[str]:
        """The name of the most probable class of each."""
        return [self.classes[index] for index in self.logits(raw, batch_size).argmax(dim=1).tolist()]
