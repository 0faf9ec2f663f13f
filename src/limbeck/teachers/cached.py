"""A teacher that is asked once a row: the cache around any teacher."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.errors import SignalError
from limbeck.signals.attention import token_dimensions
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Storage, stored
from limbeck.teachers.coded import LOGITS, decoded, empty, encoded, length_of, merged, tokens, whole
from limbeck.teachers.contents import CONTENT, contents
from limbeck.teachers.earlier import Earlier
from limbeck.teachers.rows import Rows, distinct, filled, named
from limbeck.teachers.store import Store, store_key
from limbeck.teachers.store.codec import Ints
from limbeck.teachers.store.codecs import Codec
from limbeck.teachers.store.frame import column
from limbeck.teachers.store.index import Places
from limbeck.teachers.teacher import Provides, Teacher


class CachedTeacher:
    """Any teacher with a fingerprint, asked only for rows that are not stored yet.

    If no row of a batch is stored, the batch is asked as it is, so that a live run and its replay agree bit for bit.
    Padding rows are never stored, nor rows with NaN. Stored values come back on the batch's device in their dtype.

    Args:
        teacher: whom to ask.
        root: the folder of stores.
        inputs: what the teacher sees for (id, view): `Examples.inputs_fingerprint`.
        codec: how logits are stored, and shown: a live answer is what will be read from the store. None: exact.
        shard_rows: rows are committed when there are so many (or 8 MiB of them), and at `flush`.

    Raises:
        SignalError: the teacher has no fingerprint: it moves, and what it says now is not what it says later.
    """

    def __init__(
        self, teacher: Teacher, root: Path, inputs: str, *, codec: Codec | None = None, shard_rows: int = 4096
    ) -> None:
        fingerprint = teacher.fingerprint
        if fingerprint is None:
            raise SignalError("A teacher that moves (it has no fingerprint) cannot be stored: switch the store off.")
        self.teacher = teacher
        self.codec = codec
        key = store_key(fingerprint, inputs, logits=codec.plain() if codec else None)
        self.store = Store(root, key, shard_rows=shard_rows)
        self.hits = 0
        """Rows that were answered from the store."""
        self.misses = 0
        """Rows that the teacher was asked for."""
        self.reused = 0
        """Rows that were taken over from an earlier store."""
        self.earlier: list[Earlier] = []

    def reuse(self) -> None:
        """From now on rows that another store in the same folder holds of the same teacher, for the same input, are not asked
        again. They were computed in other batches, so their last bits may be others than they would be now.
        """
        self.earlier = Earlier.than(self.store)

    @property
    def fingerprint(self) -> str:
        """The teacher's own."""
        return str(self.store.key["teacher"])

    @property
    def provides(self) -> Provides:
        """The teacher's own; of its logits what the codec keeps."""
        own = self.teacher.provides
        return replace(own, offers=min(own.offers, self.codec.offers)) if self.codec else own

    @property
    def module(self) -> nn.Module | None:
        """The teacher's own."""
        return self.teacher.module

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`.

        Raises:
            SignalError: a needed signal is not provided, the teacher is another one by now, or a codec finds logits that are no
                distribution (sound rows of the batch are stored).
            LimbeckError: the disk is full.
        """
        if lacking := self.provides.lacking(needs):
            raise SignalError(f"The teacher does not provide {', '.join(map(repr, sorted(lacking)))}.")
        if self.teacher.fingerprint != self.fingerprint:
            raise SignalError("The teacher was altered while its outputs were being stored.")
        ids, views, real = named(batch)
        places = self.store.find(ids, views, needs, real)
        missing = {name: real & (piece < 0) for name, (piece, _) in places.items()}
        asked = np.logical_or.reduce([np.zeros_like(real), *missing.values()])
        self.misses += int(asked.sum())
        self.hits += int((real & ~asked).sum())
        together: dict[bytes, list[str]] = {}
        for name, rows in missing.items():
            together.setdefault(rows.tobytes(), []).append(name)
        shown = {  # read before anything is added, which may move rows from memory to disk
            name: self._read(name, at, batch) for name, at in places.items() if (at[0] >= 0).any()
        }
        for names in together.values():
            rows = missing[names[0]]
            if (rows == real).all():
                names = names if rows.any() else [name for name in names if name not in shown]
                shown.update(self._whole(batch, names, ids, views, real) if names else {})
            elif rows.any():
                for name, fresh in self._some(batch, names, ids, views, rows).items():
                    shown[name] = self._filled(name, shown[name], fresh, rows)
        if self.codec and LOGITS in shown:
            return shown | {LOGITS: cast(Tensor, decoded(self.codec, shown[LOGITS], batch))}
        return shown

    def _contents(self, batch: Batch) -> Tensor:
        return contents(batch, labels=self.codec is not None).cpu()

    def _read(self, name: str, at: Places, batch: Batch, store: Store | None = None) -> Tensor:
        store = self.store if store is None else store
        if self.codec and name == LOGITS:
            return store.read(name, at)  # bytes, until all rows are there
        return store.read(name, at, length_of(batch)).to(batch.ids.device)

    def _filled(self, name: str, stored: Tensor, fresh: Tensor, rows: Rows) -> Tensor:
        if self.codec and name == LOGITS:
            return merged(stored, fresh, torch.from_numpy(rows))
        return filled(name, stored, fresh, rows)

    def _whole(self, batch: Batch, names: list[str], ids: Ints, views: Ints, real: Rows) -> dict[str, Tensor]:
        """Asks the batch as it is and stores its real rows; a row that is in it twice is answered alike twice."""
        seen = self._ask(batch, names)
        first, back = distinct(ids, views, real)
        self._keep(batch, seen, ids, views, first)
        if len(first) < real.sum():
            index = np.arange(len(ids))
            index[real] = first[back]
            again = torch.from_numpy(index)
            seen = {name: value[again.to(value.device)] for name, value in seen.items()}
        return seen

    def _some(self, batch: Batch, names: list[str], ids: Ints, views: Ints, rows: Rows) -> dict[str, Tensor]:
        """Asks each missing row once; the answers [number of ``rows``, ...], in order."""
        first, back = distinct(ids, views, rows)
        part = batch.select(torch.from_numpy(first))
        seen = self._ask(part, names)
        self._keep(part, seen, ids[first], views[first], np.arange(len(first)))
        again = torch.from_numpy(back)
        return {name: value[again.to(value.device)] for name, value in seen.items()}

    def _ask(self, batch: Batch, names: list[str]) -> dict[str, Tensor]:
        """Their answers, those that an earlier store holds read from there."""
        for earlier in self.earlier:
            there, places = earlier.find(self._contents(batch).numpy(), names)
            if not there.any():
                continue
            self.misses -= int(there.sum())
            self.reused += int(there.sum())
            known = {name: self._read(name, at, batch, earlier.store) for name, at in places.items()}
            if there.all():
                return known
            rest = self._ask(batch.select(torch.from_numpy(np.flatnonzero(~there))), names)
            return {name: self._filled(name, known[name], rest[name], ~there) for name in names}
        seen = self.teacher.observe(batch, frozenset(names))
        if absent := set(names) - seen.keys():
            raise SignalError(f"The teacher was asked for {sorted(absent)[0]!r} and did not show it.")
        shown = {name: self._asked(name, seen[name], batch) for name in names}
        for name, value in shown.items():
            if len(value) != len(batch):
                raise SignalError(f"The teacher's {name!r} has {len(value)} rows for a batch of {len(batch)}.")
        return shown

    def _asked(self, name: str, value: Tensor | Storage, batch: Batch) -> Tensor:
        if name == LOGITS and self.codec:
            return encoded(self.codec, stored(value), batch)
        return (value if isinstance(value, Tensor) else whole(value)).detach().contiguous()

    def _keep(self, batch: Batch, seen: Mapping[str, Tensor], ids: Ints, views: Ints, rows: Ints) -> None:
        length = length_of(batch)
        lengths = {name: token_dimensions(name, value, length) for name, value in seen.items()}
        index = torch.from_numpy(rows)
        kept = {name: value.index_select(0, index.to(value.device)).cpu() for name, value in seen.items()}
        sound = np.ones(len(rows), dtype=bool)
        for name, value in kept.items():
            if value.is_floating_point():
                wrong = value.isnan()
                for axis in lengths[name]:  # padded positions may hold anything
                    there = tokens(batch).cpu()[index]
                    wrong = wrong & there.view(len(there), *(-1 if one == axis else 1 for one in range(wrong.ndim - 1)))
                sound &= ~wrong.flatten(1).any(1).numpy()
        refused = empty(kept[LOGITS]).numpy() if self.codec and LOGITS in kept else np.zeros(len(rows), dtype=bool)
        sound &= ~refused
        odd = rows[refused]
        if not sound.all():
            rows = rows[sound]
            kept = {name: value[torch.from_numpy(sound)] for name, value in kept.items()}
        coded = {LOGITS: column(kept.pop(LOGITS))} if self.codec and LOGITS in kept and len(rows) else {}
        saw = {CONTENT: self._contents(batch)[torch.from_numpy(rows)]}
        self.store.add(ids[rows], views[rows], kept | saw, lengths, coded)
        if len(odd):
            some = ", ".join(f"id {ids[row]} view {views[row]}" for row in odd[:3])
            raise SignalError(
                f"The teacher's logits of {len(odd)} rows (first: {some}) are no distributions: they hold NaN or infinities, "
                "which no codec stores. Half precision is the usual reason: run the teacher in float32, or leave these rows out."
            )

    def flush(self) -> None:
        """Commits what is in memory; a kill loses only what was not committed."""
        self.store.flush()

    def close(self) -> None:
        """Commits what is in memory and ends writing."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
