"""What clients say together about the public rows, as a teacher."""

import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.data.batch import Batch
from limbeck.data.fingerprint import tensors
from limbeck.errors import SignalError
from limbeck.federation.letters import LOGITS
from limbeck.signals.capture import Signals
from limbeck.teachers.teacher import Provides


class Consensus:
    """Logits about public rows, as they are; it knows no other input.

    Args:
        rows: int64 [P], the public rows, ascending.
        logits: float32 [P, C].
    """

    def __init__(self, rows: Tensor, logits: Tensor) -> None:
        self._rows, self._logits = rows, logits

    @property
    def fingerprint(self) -> str:
        """Names rows and logits."""
        return digest(["consensus", tensors({"rows": self._rows, LOGITS: self._logits})])

    @property
    def provides(self) -> Provides:
        """Logits, of the public rows."""
        return Provides(frozenset({LOGITS}), classes=self._logits.shape[1], unseen=False)

    @property
    def module(self) -> None:
        """None: only what was said is here."""
        return None

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The logits; see `Teacher.observe`.

        Raises:
            SignalError: another signal, a row that is not public, or one that was augmented.
        """
        if lacking := self.provides.lacking(needs):
            raise SignalError(
                f"Clients tell logits alone, not {', '.join(map(repr, sorted(lacking)))}: compare answers."
            )
        ids = batch.ids.cpu()
        place = torch.searchsorted(self._rows, ids).clamp_max(len(self._rows) - 1)
        known = (self._rows[place] == ids) & (batch.views.cpu() == 0)
        if not bool(known.all()):
            row = int(ids[~known][0])
            raise SignalError(f"Clients were not asked about the row {row}: they know the public rows, as they are.")
        return {LOGITS: self._logits[place].to(batch.ids.device)} if needs else {}
