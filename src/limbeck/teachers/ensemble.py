"""Several teachers as one: the weighted mean of what they say."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.data.batch import Batch
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import LimbeckError, SignalError
from limbeck.losses.mixed import Combine, Mixed, averaged
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer, Storage, stored
from limbeck.teachers.teacher import Provides, Teacher
from limbeck.teachers.weighing import Fixed, Weighing

LOGITS: Final = frozenset({"logits"})
WEIGHTS: Final = "weights"
"""The signal that says what each teacher counts in a row, [B, K]."""


class EnsembleTeacher:
    """The mean of several teachers' probabilities (Hinton et al. 2015, arXiv:1503.02531), or of their logits; of numbers theirs.

    It is the mean at temperature 1; a term's temperature softens it as it softens any teacher. A teacher that counts nothing for
    a row is not asked about it. Beside ``logits`` it shows ``weights``, and whatever a member shows as ``NAME.SIGNAL``. Of one
    member it says what that says.

    Args:
        members: K teachers of the same classes.
        weighing: what each counts in a row; None: all alike.
        combine: what the mean is of.
        task: what is asked of a row.
        names: what the members are called; None: ``teacher-1`` and so on.

    Raises:
        LimbeckError: there are none, or two of one name; one knows other classes, or only draws of its answers; vectors are asked
            for, which no two models have in one space; or what they say is weighed where a row has several answers.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        weighing: Weighing | None = None,
        combine: Combine = "probabilities",
        task: Task = CLASSES,
        names: Sequence[str] | None = None,
    ) -> None:
        if not members:
            raise LimbeckError("An ensemble needs teachers, and was given none.")
        self.names = tuple(names or (f"teacher-{number}" for number in range(1, len(members) + 1)))
        if len(set(self.names)) != len(members):
            raise LimbeckError(
                f"The teachers of an ensemble are called {list(self.names)}: each needs a name of its own."
            )
        if task.gives == "vectors":
            raise LimbeckError(
                "An ensemble takes the mean of answers, and the vectors of two models have no mean: each has a space of its own."
            )
        self.members, self.combine, self.task = tuple(members), combine, task
        self.weighing = weighing or Fixed([1.0] * len(members))
        if self.weighing.hears and not (task.single and task.gives == "choices"):
            raise LimbeckError(
                f"Teachers are weighed by what they say where a row has one class, and the task here is {task.name!r}: give "
                "their weights as numbers."
            )
        known = [member.provides for member in members]
        if draws := [place for place, one in enumerate(known) if one.offers < Offer.OUTCOMES]:
            raise LimbeckError(
                f"Teacher {draws[0] + 1} of the ensemble has nothing but draws of its answers, which cannot be mixed: "
                "store whole or top-k logits, or take the model itself."
            )
        counts = {one.classes for one in known if one.classes is not None}
        if task.gives != "tokens" and len(counts) > 1:  # a vocabulary may be padded
            raise LimbeckError(
                f"The teachers of the ensemble know {sorted(counts)} classes: all must know the same ones."
            )

    @property
    def fingerprint(self) -> str | None:
        """Names the members in order, their names and weights, and what the mean is of; None if one of them moves."""
        parts = [*(member.fingerprint for member in self.members), self.weighing.fingerprint]
        return None if None in parts else digest(["ensemble", self.combine, self.task.name, *self.names, *parts])

    @property
    def provides(self) -> Provides:
        """The logits, for what every member can be asked about, the weights, and what each member shows."""
        known = [member.provides for member in self.members]
        whole = all(one.offers is Offer.MATRIX for one in known)
        classes = [one.classes for one in known if one.classes is not None]
        unseen = all(one.unseen for one in known)
        return Provides(
            LOGITS | {WEIGHTS},
            Offer.MATRIX if whole else Offer.ROWS,
            min(classes, default=None),
            unseen,
            dict(zip(self.names, known, strict=True)),
        )

    @property
    def module(self) -> None:
        """None: it is several."""
        return None

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`.

        Raises:
            SignalError: a signal is needed that neither it nor a member shows; or as its members.
        """
        if lacking := self.provides.lacking(needs):
            raise SignalError(
                f"An ensemble shows logits alone, not {', '.join(map(repr, sorted(lacking)))}: layers are of one model. Compare "
                f"logits, or name the teacher whose signal it is: {', '.join(self.names)}."
            )
        shown = members_own(dict(zip(self.names, self.members, strict=True)), batch, needs)
        if needs <= shown.keys():
            return shown
        said = {place: shown[one] for place, name in enumerate(self.names) if (one := f"{name}.logits") in shown}
        if self.weighing.hears:
            said |= {place: self._logits(place, batch) for place in range(len(self.members)) if place not in said}
            weights = self.weighing.of(batch, [said[place].float() for place in range(len(self.members))])
        else:
            weights = self.weighing.of(batch)
        if WEIGHTS in needs:
            shown[WEIGHTS] = weights
        return shown | ({"logits": self._mean(batch, weights, said)} if "logits" in needs else {})

    def _logits(self, place: int, batch: Batch) -> Any:
        return self.members[place].observe(batch, LOGITS)["logits"]

    def _mean(self, batch: Batch, weights: Tensor, said: Mapping[int, Any]) -> Tensor:
        """The logits; ``said``: of members that were asked about the whole batch already."""
        if len(self.members) == 1:
            return cast(Tensor, said[0] if 0 in said else self._logits(0, batch))
        used = [place for place in range(len(self.members)) if bool((weights[:, place] > 0).any())]
        weights, parts = weights[:, used], []
        every = torch.arange(len(batch), device=batch.ids.device)
        for column, place in enumerate(used):
            rows = (weights[:, column] > 0).nonzero()[:, 0]
            if place in said:
                parts.append((said[place], every))
                continue
            part = batch if len(rows) == len(batch) else batch.select(rows)
            parts.append((self._logits(place, part), rows))
        if self.task.gives == "tokens":
            return cast(Tensor, self._mixed(parts, weights, len(batch)))
        return self._dense([_spread(said, rows, len(batch)) for said, rows in parts], weights, batch)

    def _dense(self, said: list[Tensor], weights: Tensor, batch: Batch) -> Tensor:
        said = [one.float() for one in said]
        if len({one.shape for one in said}) > 1:
            shapes = " and ".join(str(list(one.shape)) for one in said)
            raise SignalError(
                f"The teachers of the ensemble give logits of the shapes {shapes}: all must answer the same."
            )
        if self.task.gives != "choices" or self.combine == "logits":
            return averaged(said, weights, "logits")
        answers = [self.task.answers(one, batch) for one in said]
        return self.task.logits(averaged(answers, weights)).contiguous()

    def _mixed(self, parts: Sequence[tuple[Tensor | Storage, Tensor]], weights: Tensor, count: int) -> Mixed:
        """Storages of [B, T] rows each."""
        storages = []
        for said, rows in parts:
            own = stored(said)
            length = own.rows[1]
            if len(rows) < count:  # each row of the batch finds its own in the part, those that count nothing any
                place = torch.zeros(count, dtype=torch.int64, device=rows.device)
                place[rows] = torch.arange(len(rows), device=rows.device)
                own = own.at((place[:, None] * length + torch.arange(length, device=rows.device)).flatten())
            storages.append(own)
        return Mixed(tuple(storages), weights[:, None].expand(-1, length, -1), self.combine)


def members_own(members: Mapping[str, Teacher], batch: Batch, needs: frozenset[str]) -> dict[str, Any]:
    """The needed signals of single members, under their names: ``NAME.SIGNAL``."""
    shown: dict[str, Any] = {}
    for name, member in members.items():
        own = frozenset(one.removeprefix(f"{name}.") for one in needs - LOGITS if one.startswith(f"{name}."))
        shown |= {f"{name}.{one}": value for one, value in (member.observe(batch, own) if own else {}).items()}
    return shown


def _spread(said: Tensor, rows: Tensor, count: int) -> Tensor:
    """Answers to some rows of a batch at their places in [B, ...]; zeros, which count nothing, elsewhere."""
    if len(rows) == count:
        return said
    whole = said.new_zeros(count, *said.shape[1:])
    whole[rows] = said
    return whole
