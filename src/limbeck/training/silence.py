"""Terms that say nothing: a loss of exactly zero over a whole epoch is a mistake, and stops the training."""

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from accelerate import Accelerator

from limbeck.errors import LimbeckError
from limbeck.models.adapters import merged
from limbeck.models.identity import of_module
from limbeck.training.stage import Stage


def silent(name: str, where: str = "") -> LimbeckError:
    """That a term said nothing. ``where``: whose term it is, such as `` of the student``."""
    return LimbeckError(
        f"The term {name!r}{where} was exactly zero for a whole epoch, although its weight is above 0 and it kept examples: "
        "the student learns nothing from it. Do student and teacher share the module it reads, or is what it reads a "
        "constant?"
    )


class Silence:
    """Watches the parts of the loss; told every step's, it looks at them when an epoch ends."""

    def __init__(self, stage: Stage, names: tuple[str, ...], accelerator: Accelerator) -> None:
        self._stage, self._names, self._accelerator = stage, names, accelerator
        self._every = ceil(len(stage.examples) / stage.training.batch_size)
        self._steps = 0
        self._loudest: dict[str, float] = {}

    def add(self, parts: Mapping[str, float]) -> None:
        """One step's parts. A term that rests, or has no example that counts or is kept, is in them not at all or not kept.

        Raises:
            LimbeckError: a term was exactly zero in every step of the epoch, though it weighs and kept examples.
        """
        for name in self._names:
            if name in parts and parts.get(f"{name}.kept", 1.0) > 0:
                self._loudest[name] = max(self._loudest.get(name, 0.0), abs(parts[name]))
        self._steps += 1
        if self._steps < self._every:
            return
        loudest, self._steps, self._loudest = self._agreed(), 0, {}
        for name, value in loudest.items():
            if value == 0 and not self._same():
                raise silent(name, f" of {self._stage.name}")

    def _agreed(self) -> dict[str, float]:
        """The loudest value of each term that spoke, over all processes; all of them get the same."""
        if self._accelerator.num_processes == 1:
            return self._loudest
        rows = [[self._loudest.get(name, 0.0), float(name in self._loudest)] for name in self._names]
        summed = self._accelerator.reduce(torch.tensor(rows, device=self._accelerator.device), "sum").tolist()
        return {name: value for name, (value, spoke) in zip(self._names, summed, strict=True) if spoke}

    def _same(self) -> bool:
        """Whether the student started as the teacher; looked at only when a term is silent."""
        teacher = self._stage.teacher
        return teacher is not None and of_module(merged(self._stage.start.module())) == teacher.fingerprint

    def state_dict(self) -> dict[str, Any]:
        """The open epoch."""
        return {"steps": self._steps, "loudest": self._loudest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self._steps, self._loudest = state["steps"], dict(state["loudest"])
