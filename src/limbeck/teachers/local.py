"""A teacher that is a model in memory."""

import torch
from torch import nn

from limbeck.data.batch import Batch
from limbeck.signals.capture import Capture, Signals
from limbeck.teachers.teacher import Provides


class LocalTeacher:
    """A module asked in evaluation mode, without a graph. It is not altered but for being put into evaluation mode.

    Args:
        module: any `nn.Module`; it is moved to the device of the first batch.
        fingerprint: names its weights and code; `limbeck.models.identity.of_module` makes one.
    """

    def __init__(self, module: nn.Module, fingerprint: str) -> None:
        self.module = module.eval()
        self._fingerprint = fingerprint
        self._capture: Capture | None = None
        self._device: torch.device | None = None

    @property
    def fingerprint(self) -> str:
        """Names the weights."""
        return self._fingerprint

    @property
    def provides(self) -> Provides:
        """Any signal that the module has."""
        return Provides()

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`."""
        if self._device != batch.ids.device:
            self._device = batch.ids.device
            self.module.to(self._device)
        if any(part.training for part in self.module.modules()):
            self.module.eval()  # a parent's train() reaches a teacher that hangs on it
        if self._capture is None or self._capture.names != needs:
            if self._capture:
                self._capture.close()
            self._capture = Capture(self.module, needs)
        with torch.no_grad():
            return self._capture(batch.columns("teacher"), keys=batch.keys)
