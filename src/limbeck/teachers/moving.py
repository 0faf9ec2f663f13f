"""A teacher that moves while it teaches."""

from typing import Any

from torch import nn

from limbeck.data.batch import Batch
from limbeck.signals.capture import Signals
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Provides


class Moving:
    """A model that is asked as it is now, in evaluation mode. What moves it is a subclass's, or that of whoever trains it.

    Args:
        module: the model, its own: nobody else may hold it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()
        self._asked = LocalTeacher(self.module, "moves")

    @property
    def fingerprint(self) -> None:
        """None: it moves."""
        return None

    @property
    def provides(self) -> Provides:
        """Any signal that the model has."""
        return self._asked.provides

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals, without a graph; see `Teacher.observe`."""
        return self._asked.observe(batch, needs)

    def state_dict(self) -> dict[str, Any]:
        """The model as it is."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.module.load_state_dict(state)
