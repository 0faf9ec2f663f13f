"""Teachers of a task each, as one teacher of a student with a head for every task."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.data.batch import Batch
from limbeck.data.task import NEVER, Task
from limbeck.errors import LimbeckError, SignalError
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer
from limbeck.teachers.ensemble import LOGITS, members_own
from limbeck.teachers.teacher import Provides, Teacher


class ByTask:
    """What several teachers know of several tasks, head by head.

    It shows the logits of all heads, [B, outputs]; of a task that nobody knows each is ``NEVER``. Whatever a member shows is
    ``NAME.SIGNAL``. It answers about any row, whichever task the row has a label of.

    Args:
        task: what is asked, its tasks known.
        heads: by task, who knows it; each gives logits of its classes alone, [B, classes].
        members: the teachers by name, for their own signals; by default those of ``heads``.

    Raises:
        LimbeckError: nobody knows a task, one is of no task that is asked, or gives other than whole logits of its classes.
    """

    module = None

    def __init__(self, task: Task, heads: Mapping[str, Teacher], members: Mapping[str, Teacher] | None = None) -> None:
        if not heads:
            raise LimbeckError("Teachers by task need one at least, and there is none.")
        for name, one in heads.items():
            if name not in task.heads:
                raise LimbeckError(
                    f"A teacher is for the task {name!r}, and the data asks {', '.join(task.heads) or 'one thing alone'}."
                )
            known, count = one.provides, len(task.heads[name].classes)
            if known.offers < Offer.MATRIX or known.classes not in (None, count):
                raise LimbeckError(
                    f"The teacher of the task {name!r} must give whole logits of its {count} classes: give the model itself, "
                    "with these classes in this order."
                )
        self._task, self._heads = task, {name: heads[name] for name in task.heads if name in heads}
        self._members = dict(self._heads if members is None else members)

    @property
    def fingerprint(self) -> str | None:
        """Names the teachers, their names and the heads; None if one of them moves."""
        parts = [*self._heads.values(), *self._members.values()]
        if None in (told := [one.fingerprint for one in parts]):
            return None
        return digest(["by task", self._task, list(self._heads), list(self._members), told])

    @property
    def provides(self) -> Provides:
        """The logits of all heads, which of them it knows, and what each member shows."""
        unseen = all(one.provides.unseen for one in (*self._heads.values(), *self._members.values()))
        members = {name: one.provides for name, one in self._members.items()}
        for task, one in self._heads.items():  # whoever knows one task alone
            for name, member in self._members.items():
                if member is one:
                    members[name] = replace(members[name], heads=frozenset({task}))
        return Provides(LOGITS, Offer.MATRIX, self._width, unseen, members, frozenset(self._heads))

    @property
    def _width(self) -> int:
        return max(one.stop for one in self._task.heads.values())

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`.

        Raises:
            SignalError: a signal is needed that neither it nor a member shows, or a teacher gives other than its classes.
        """
        if lacking := self.provides.lacking(needs):
            raise SignalError(
                f"Teachers of a task each show their logits together, not {', '.join(map(repr, sorted(lacking)))}: name the "
                f"teacher whose signal it is: {', '.join(self._members)}."
            )
        shown = members_own(self._members, batch, needs)
        return shown | ({"logits": self._logits(batch)} if "logits" in needs else {})

    def _logits(self, batch: Batch) -> Tensor:
        found = torch.full((len(batch), self._width), NEVER, device=batch.ids.device)
        for name, teacher in self._heads.items():
            said, head = teacher.observe(batch, LOGITS)["logits"], self._task.heads[name]
            if said.shape != (len(batch), head.stop - head.start):
                raise SignalError(
                    f"The teacher of the task {name!r} gives logits of the shape {list(said.shape)}, and the task has "
                    f"{head.stop - head.start} classes."
                )
            found[:, head.start : head.stop] = said.float()
        return found


class HeadOf:
    """What a teacher of several tasks says of one of them, [B, classes]."""

    module = None

    def __init__(self, teacher: Teacher, task: Task, name: str) -> None:
        self._teacher, self._head = teacher, task.heads[name]

    @property
    def fingerprint(self) -> str | None:
        """The teacher's, and which head it is."""
        own = self._teacher.fingerprint
        return own and digest(["head of", own, self._head.start, self._head.stop])

    @property
    def provides(self) -> Provides:
        """The head's logits."""
        own = self._teacher.provides
        return Provides(LOGITS, own.offers, len(self._head.classes), own.unseen)

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`."""
        said = self._teacher.observe(batch, needs)["logits"]
        return {"logits": said[:, self._head.start : self._head.stop].contiguous()}
