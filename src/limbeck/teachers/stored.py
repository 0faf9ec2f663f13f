"""A teacher that is not here any more: its stored outputs alone."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError, SignalError
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Head, Offer
from limbeck.teachers.coded import LOGITS, decoded, length_of
from limbeck.teachers.contents import CONTENT, contents
from limbeck.teachers.rows import Rows, named
from limbeck.teachers.store import Store
from limbeck.teachers.store.codec import Ints
from limbeck.teachers.store.codecs import codec_of
from limbeck.teachers.teacher import Provides


class StoredTeacher:
    """Stored outputs without their teacher.

    Args:
        folder: a store, or a folder that holds just one.
        head: the teacher's, where its hidden states were stored in place of logits.

    Raises:
        LimbeckError: there is no store, or more than one; or hidden states are stored, and of another head.
    """

    def __init__(self, folder: Path, head: Head | None = None) -> None:
        inside = (path.parent for path in sorted(folder.glob("*/key.json")))
        found = [folder] if (folder / "key.json").exists() else list(inside)
        if len(found) != 1:
            raise LimbeckError(
                f"{folder} holds {len(found) or 'no'} stored teacher outputs"
                + (": name one, such as " + str(found[0]) if found else ".")
            )
        self.store = Store.at(found[0])
        coded = self.store.key.get(LOGITS)
        self.codec = None if coded is None else codec_of(coded, head)

    @property
    def fingerprint(self) -> str:
        """That of the teacher that was asked."""
        return str(self.store.key["teacher"])

    @property
    def provides(self) -> Provides:
        """The signals that are stored, for the rows that are stored."""
        offers = self.codec.offers if self.codec else Offer.MATRIX
        return Provides(names=self.store.names, offers=offers, unseen=False)

    @property
    def module(self) -> None:
        """None: only its outputs are here."""
        return None

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`.

        Raises:
            SignalError: a signal or a row is not stored, or the teacher saw another row under that id.
        """
        if lacking := self.provides.lacking(needs):
            raise SignalError(
                f"{self.store.folder} does not hold {', '.join(map(repr, sorted(lacking)))}: "
                f"it holds {', '.join(map(repr, sorted(self.store.names))) or 'nothing'}."
            )
        ids, views, real = named(batch)
        places = self.store.find(ids, views, needs, real)
        for name, (piece, _) in places.items():
            missing = np.flatnonzero((real | (piece < 0).all()) & (piece < 0))
            if len(missing):
                some = ", ".join(f"id {ids[row]} view {views[row]}" for row in missing[:3])
                raise SignalError(
                    f"{len(missing)} of {int(real.sum())} rows have no stored {name!r} (first: {some}) in "
                    f"{self.store.folder}: the store was made for other data, or labelling was not finished."
                )
        self._demand_same(batch, ids, views, real)
        shown: dict[str, Tensor] = {}
        for name, at in places.items():
            if self.codec and name == LOGITS:
                shown[name] = cast(Tensor, decoded(self.codec, self.store.read(name, at), batch))
            else:
                shown[name] = self.store.read(name, at, length_of(batch)).to(batch.ids.device)
        return shown

    def _demand_same(self, batch: Batch, ids: Ints, views: Ints, real: Rows) -> None:
        """An id says where a row stands, and not what it says."""
        piece, place = self.store.find(ids, views, {CONTENT}, real)[CONTENT]
        known = real & (piece >= 0)
        if not known.any():
            return
        saw = self.store.read(CONTENT, (piece[known], place[known]))
        here = contents(batch, labels=self.codec is not None).cpu()[torch.from_numpy(known)]
        if bool((saw != here).any()):
            row = np.flatnonzero(known)[int((saw != here).any(1).nonzero()[0])]
            raise SignalError(
                f"The teacher saw another input under id {ids[row]} view {views[row]} than the data has there now: "
                f"{self.store.folder} was made for other data, or with another tokenizer or chat template. Label this data, or "
                "give the data that was labelled."
            )
