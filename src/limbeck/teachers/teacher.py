"""The `Teacher` contract: whatever knows, behind one method."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import nn

from limbeck.data.batch import Batch
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer


@dataclass(frozen=True, slots=True)
class Provides:
    """What a teacher can show: ``names`` of signals (None: any that its model has), and how much of its logits.

    ``classes``: how many the logits have, None where that is only known by asking. ``unseen``: whether it answers for
    inputs that it was never asked about before. ``members``: by their names, the teachers that it consists of; a signal of one
    is ``NAME.SIGNAL``. ``heads``: the tasks that it knows, where several have a head each; None: all that there are.
    """

    names: frozenset[str] | None = None
    offers: Offer = Offer.MATRIX
    classes: int | None = None
    unseen: bool = True
    members: "Mapping[str, Provides]" = field(default_factory=dict)
    heads: frozenset[str] | None = None

    @property
    def interchangeable(self) -> bool:
        """Whether it consists of several, each of whom could teach in its place."""
        return len(self.members) > 1 and all(one.heads == self.heads for one in self.members.values())

    def lacking(self, needs: AbstractSet[str]) -> frozenset[str]:
        """The needed names that are not provided."""
        if self.names is None:
            return frozenset()
        return frozenset(name for name in frozenset(needs) - self.names if not self._of_a_member(name))

    def _of_a_member(self, name: str) -> bool:
        who, _, signal = name.partition(".")
        return who in self.members and bool(signal) and not self.members[who].lacking({signal})


@runtime_checkable
class Teacher(Protocol):
    """A local model, a served one, a store around either: all the same to the student."""

    @property
    def fingerprint(self) -> str | None:
        """Names everything that the answers depend on; None for a teacher that moves."""
        ...

    @property
    def provides(self) -> Provides:
        """What it can show."""
        ...

    @property
    def module(self) -> nn.Module | None:
        """The model in memory, if that is what it is: for its layers, its size and its speed."""
        ...

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals for ``batch``, first dimension B, detached, on the batch's device.

        Raises:
            SignalError: a needed signal is not provided.
        """
        ...
