"""All that the next step depends on, saved and put back."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from limbeck.objective.schedules import Place
from limbeck.training import checkpoint
from limbeck.training.pieces import gathered, parted_optimiser, parted_weights

SECONDS_BETWEEN_CHECKPOINTS = 30.0


def agreed(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any process says so; all get the same answer."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


class Resumable:
    """A training's engine, optimiser, random states and parts, in checkpoints under one folder."""

    def __init__(
        self, folder: Path, accelerator: Accelerator, engine: nn.Module, optimiser: Any, parts: Sequence[object]
    ) -> None:
        self._folder, self._accelerator, self._engine, self._optimiser = folder, accelerator, engine, optimiser
        self._parts: list[Any] = [
            part for part in parts if hasattr(part, "state_dict") and not isinstance(part, nn.Module)
        ]
        self._saved = time.monotonic()

    def due(self, place: Place, every: int | None) -> bool:
        """Whether it is time for a checkpoint: by steps if ``every`` is given, else by the clock."""
        if every:
            return place.step % every == 0
        return agreed(self._accelerator, time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS)

    def save(self, place: Place, seconds: float) -> None:
        """Writes a checkpoint after ``place.step`` steps."""
        randomness = gather_object([checkpoint.random_state()])
        engine, optimiser = gathered(dict(self._engine.state_dict())), gathered(self._optimiser.state_dict())
        if self._accelerator.is_main_process:
            scaler = getattr(self._accelerator, "scaler", None)
            tree = {
                "step": place.step,
                "seconds": seconds,
                "engine": engine,
                "optimizer": optimiser,
                "scaler": scaler.state_dict() if scaler else None,
                "randomness": randomness,
                "parts": [part.state_dict() for part in self._parts],
            }
            checkpoint.save(self._folder, place.step, tree)
        self._accelerator.wait_for_everyone()
        self._saved = time.monotonic()

    def load(self) -> tuple[int, float]:
        """Puts the newest good checkpoint back; the steps done and the seconds they took, (0, 0.0) if there is none."""
        tree = checkpoint.latest(self._folder)
        if tree is None:
            return 0, 0.0
        self._engine.load_state_dict(parted_weights(tree["engine"], self._engine))
        self._optimiser.load_state_dict(parted_optimiser(tree["optimizer"], self._optimiser.param_groups))
        if tree["scaler"]:
            self._accelerator.scaler.load_state_dict(tree["scaler"])
        main = self._accelerator.is_main_process
        for part, state in zip(self._parts if main else self._parts[: len(tree["parts"])], tree["parts"], strict=False):
            part.load_state_dict(state)
        # last of all: what came before may have drawn numbers
        checkpoint.restore_random_state(tree["randomness"][self._accelerator.process_index])
        return tree["step"], tree["seconds"]
