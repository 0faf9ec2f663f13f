"""A teacher, and another whom single terms hear."""

from dataclasses import replace

from torch import nn

from limbeck.config import digest
from limbeck.data.batch import Batch
from limbeck.signals.capture import Signals
from limbeck.teachers.ensemble import members_own
from limbeck.teachers.teacher import Provides, Teacher


class Beside:
    """What ``teacher`` shows under its own names, and what ``other`` shows as ``NAME.SIGNAL``; each is asked for its own alone.

    Args:
        teacher: who is heard by whatever names nobody.
        name: what the other one is called.
        other: who is beside.
    """

    def __init__(self, teacher: Teacher, name: str, other: Teacher) -> None:
        self._teacher, self._name, self._other = teacher, name, other

    @property
    def fingerprint(self) -> str | None:
        """Both, and the name; None if one of them moves."""
        both = [self._teacher.fingerprint, self._other.fingerprint]
        return None if None in both else digest(["beside", self._name, *both])

    @property
    def provides(self) -> Provides:
        """The teacher's own, and the other one as a member."""
        own, other = self._teacher.provides, self._other.provides
        return replace(own, unseen=own.unseen and other.unseen, members={**own.members, self._name: other})

    @property
    def module(self) -> nn.Module | None:
        """The teacher's own."""
        return self._teacher.module

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`."""
        shown = members_own({self._name: self._other}, batch, needs)
        left = needs - shown.keys()
        return {**shown, **(self._teacher.observe(batch, left) if left else {})}
