"""Several teachers as one: the weighted mean of what they say."""

from collections.abc import Sequence
from typing import Final, cast

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


class EnsembleTeacher:
    """The mean of several teachers' probabilities (Hinton et al. 2015, arXiv:1503.02531), or of their logits; of numbers theirs.

    It is the mean at temperature 1; a term's temperature softens it as it softens any teacher. A teacher that counts nothing for
    a row is not asked about it.

    Args:
        members: K teachers of the same classes.
        weighing: what each counts in a row; None: all alike.
        combine: what the mean is of.
        task: what is asked of a row.

    Raises:
        LimbeckError: there are none; one knows other classes, or only draws of its answers; or vectors are asked for, which no
            two models have in one space.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        weighing: Weighing | None = None,
        combine: Combine = "probabilities",
        task: Task = CLASSES,
    ) -> None:
        if not members:
            raise LimbeckError("An ensemble needs teachers, and was given none.")
        if task.gives == "vectors":
            raise LimbeckError(
                "An ensemble takes the mean of answers, and the vectors of two models have no mean: each has a space of its own."
            )
        self.members, self.combine, self.task = tuple(members), combine, task
        self.weighing = weighing or Fixed([1.0] * len(members))
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
        """Names the members in order, their weights, and what the mean is of; None if one of them moves."""
        parts = [*(member.fingerprint for member in self.members), self.weighing.fingerprint]
        return None if None in parts else digest(["ensemble", self.combine, self.task.name, *parts])

    @property
    def provides(self) -> Provides:
        """The logits, for what every member can be asked about."""
        known = [member.provides for member in self.members]
        whole = all(one.offers is Offer.MATRIX for one in known)
        classes = [one.classes for one in known if one.classes is not None]
        unseen = all(one.unseen for one in known)
        return Provides(LOGITS, Offer.MATRIX if whole else Offer.ROWS, min(classes, default=None), unseen)

    @property
    def module(self) -> None:
        """None: it is several."""
        return None

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`.

        Raises:
            SignalError: another signal than the logits is needed; or as its members.
        """
        if lacking := needs - LOGITS:
            raise SignalError(
                f"An ensemble shows its logits alone, not {', '.join(map(repr, sorted(lacking)))}: layers are of one model. "
                "Compare logits, or take one of its teachers."
            )
        if not needs:
            return {}
        weights = self.weighing.of(batch)
        used = [place for place in range(len(self.members)) if bool((weights[:, place] > 0).any())]
        weights, parts = weights[:, used], []
        for column, place in enumerate(used):
            rows = (weights[:, column] > 0).nonzero()[:, 0]
            part = batch if len(rows) == len(batch) else batch.select(rows)
            parts.append((self.members[place].observe(part, LOGITS)["logits"], rows))
        if self.task.gives == "tokens":
            return {"logits": cast(Tensor, self._mixed(parts, weights, len(batch)))}
        return {"logits": self._dense([_spread(said, rows, len(batch)) for said, rows in parts], weights, batch)}

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


def _spread(said: Tensor, rows: Tensor, count: int) -> Tensor:
    """Answers to some rows of a batch at their places in [B, ...]; zeros, which count nothing, elsewhere."""
    if len(rows) == count:
        return said
    whole = said.new_zeros(count, *said.shape[1:])
    whole[rows] = said
    return whole
