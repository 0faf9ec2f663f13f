"""A teacher that is a model in memory."""

from typing import Any

import torch
from torch import nn

from limbeck.data.batch import Batch
from limbeck.signals.capture import Capture, Signals
from limbeck.teachers.precision import Asking
from limbeck.teachers.teacher import Provides


class LocalTeacher:
    """A module asked in evaluation mode, without a graph. It is not altered but for being put into evaluation mode.

    Args:
        module: any `nn.Module`; it is moved to the device of the first batch.
        fingerprint: names its weights and code; `limbeck.models.identity.of_module` makes one.
        asking: how it is run. In another precision a copy is run, made when it is first asked, and ``module`` stays as it is:
            a student may be made of its layers.
    """

    def __init__(self, module: nn.Module, fingerprint: str, asking: Asking | None = None) -> None:
        self.module = module.eval()
        self._asking = asking or Asking()
        self._fingerprint = self._asking.named(fingerprint)
        self._run: nn.Module | None = None
        self._called: Any = None
        self._capture: Capture | None = None
        self._device: torch.device | None = None

    @property
    def fingerprint(self) -> str:
        """Names the weights, and how they are run."""
        return self._fingerprint

    @property
    def provides(self) -> Provides:
        """Any signal that the module has."""
        return Provides()

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`."""
        if self._run is None:
            self._run = self._asking.module(self.module)
            self._called = torch.compile(self._run) if self._asking.compile else self._run
        if self._device != batch.ids.device:
            self._device = batch.ids.device
            self._run.to(self._device)
        if any(part.training for part in self._run.modules()):
            self._run.eval()  # a parent's train() reaches a teacher that hangs on it
        if self._capture is None or self._capture.names != needs:
            if self._capture:
                self._capture.close()
            self._capture = Capture(self._run, needs)
        columns = batch.columns("teacher")
        if self._asking.precision == "bf16":
            half = torch.bfloat16
            columns = {name: one.to(half) if one.is_floating_point() else one for name, one in columns.items()}
        with torch.no_grad():
            return self._capture(columns, self._called, batch.keys)
