"""One teacher of several, as if it were alone."""

from limbeck.config import digest
from limbeck.data.batch import Batch
from limbeck.signals.capture import Signals
from limbeck.teachers.teacher import Provides, Teacher


class OneOf:
    """What a teacher that consists of several shows of the one called ``name``: its signals, under their own names.

    It can be asked and stored as any teacher; ``module`` is None, as it is only heard through the others' teacher.
    """

    module = None

    def __init__(self, several: Teacher, name: str) -> None:
        self._several, self._name = several, name

    @property
    def fingerprint(self) -> str | None:
        """That of all of them, and which one it is; None if one of them moves."""
        whole = self._several.fingerprint
        return whole and digest(["one of", whole, self._name])

    @property
    def provides(self) -> Provides:
        """The one's own."""
        return self._several.provides.members[self._name]

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`."""
        seen = self._several.observe(batch, frozenset(f"{self._name}.{name}" for name in needs))
        return {name: seen[f"{self._name}.{name}"] for name in needs}
