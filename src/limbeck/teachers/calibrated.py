"""A teacher whose confidence is corrected."""

from torch import Tensor, nn

from limbeck.config import digest
from limbeck.data.batch import Batch
from limbeck.errors import SignalError
from limbeck.signals.capture import Signals
from limbeck.signals.perturbed import is_logits
from limbeck.teachers.teacher import Provides, Teacher


class Calibrated:
    """A teacher with its logits divided by a temperature (Guo et al. 2017, arXiv:1706.04599): above 1 it is less sure.

    Its answers stay the same. Its layers are as they were.
    """

    def __init__(self, teacher: Teacher, temperature: float) -> None:
        self._teacher, self._temperature = teacher, temperature

    @property
    def fingerprint(self) -> str | None:
        """The teacher's, and the temperature."""
        own = self._teacher.fingerprint
        return own and digest(["calibrated", own, self._temperature])

    @property
    def provides(self) -> Provides:
        """The teacher's own."""
        return self._teacher.provides

    @property
    def module(self) -> nn.Module | None:
        """The teacher's own."""
        return self._teacher.module

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`.

        Raises:
            SignalError: the logits are those of a language model, which are never made whole.
        """
        shown = self._teacher.observe(batch, needs)
        return {name: self._divided(value) if is_logits(name) else value for name, value in shown.items()}

    def _divided(self, logits: Tensor) -> Tensor:
        if not isinstance(logits, Tensor):
            raise SignalError(
                "A teacher's own temperature divides whole logits, and those of a language model are never made: leave the "
                "member's 'temperature' out."
            )
        return logits / self._temperature
