"""A teacher that is asked once a row: the cache around any teacher, and stored outputs without one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.data.batch import REAL, Batch
from limbeck.data.examples import Examples
from limbeck.errors import LimbeckError, SignalError
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Head, Offer, Storage, stored
from limbeck.teachers.coded import LOGITS, decoded, empty, encoded, length_of, merged, tokens, whole
from limbeck.teachers.store import Store, store_key
from limbeck.teachers.store.codec import Ints
from limbeck.teachers.store.codecs import Codec, codec_of
from limbeck.teachers.store.frame import column
from limbeck.teachers.store.index import Places
from limbeck.teachers.teacher import Provides, Teacher

Rows = NDArray[np.bool_]


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
        ids, views, real = _rows(batch)
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

    def _read(self, name: str, at: Places, batch: Batch) -> Tensor:
        if self.codec and name == LOGITS:
            return self.store.read(name, at)  # bytes, until all rows are there
        return self.store.read(name, at, length_of(batch)).to(batch.ids.device)

    def _filled(self, name: str, stored: Tensor, fresh: Tensor, rows: Rows) -> Tensor:
        if self.codec and name == LOGITS:
            return merged(stored, fresh, torch.from_numpy(rows))
        return _filled(name, stored, fresh, rows)

    def _whole(self, batch: Batch, names: list[str], ids: Ints, views: Ints, real: Rows) -> dict[str, Tensor]:
        """Asks the batch as it is and stores its real rows; a row that is in it twice is answered alike twice."""
        seen = self._ask(batch, names)
        first, back = _distinct(ids, views, real)
        self._keep(batch, seen, ids, views, first)
        if len(first) < real.sum():
            index = np.arange(len(ids))
            index[real] = first[back]
            again = torch.from_numpy(index)
            seen = {name: value[again.to(value.device)] for name, value in seen.items()}
        return seen

    def _some(self, batch: Batch, names: list[str], ids: Ints, views: Ints, rows: Rows) -> dict[str, Tensor]:
        """Asks each missing row once; the answers [number of ``rows``, ...], in order."""
        first, back = _distinct(ids, views, rows)
        part = batch.select(torch.from_numpy(first))
        seen = self._ask(part, names)
        self._keep(part, seen, ids[first], views[first], np.arange(len(first)))
        again = torch.from_numpy(back)
        return {name: value[again.to(value.device)] for name, value in seen.items()}

    def _ask(self, batch: Batch, names: list[str]) -> dict[str, Tensor]:
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
        per_token = {name for name, value in seen.items() if value.ndim > 2 and value.shape[1] == length}
        index = torch.from_numpy(rows)
        kept = {name: value.index_select(0, index.to(value.device)).cpu() for name, value in seen.items()}
        sound = np.ones(len(rows), dtype=bool)
        for name, value in kept.items():
            if value.is_floating_point():
                wrong = value.isnan()
                if name in per_token:  # padded positions may hold anything
                    wrong = wrong.flatten(2).any(2) & tokens(batch).cpu()[index]
                sound &= ~wrong.flatten(1).any(1).numpy()
        refused = empty(kept[LOGITS]).numpy() if self.codec and LOGITS in kept else np.zeros(len(rows), dtype=bool)
        sound &= ~refused
        odd = rows[refused]
        if not sound.all():
            rows = rows[sound]
            kept = {name: value[torch.from_numpy(sound)] for name, value in kept.items()}
        coded = {LOGITS: column(kept.pop(LOGITS))} if self.codec and LOGITS in kept and len(rows) else {}
        self.store.add(ids[rows], views[rows], kept, per_token, coded)
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
            SignalError: a signal or a row is not stored.
        """
        if lacking := self.provides.lacking(needs):
            raise SignalError(
                f"{self.store.folder} does not hold {', '.join(map(repr, sorted(lacking)))}: "
                f"it holds {', '.join(map(repr, sorted(self.store.names))) or 'nothing'}."
            )
        ids, views, real = _rows(batch)
        places = self.store.find(ids, views, needs, real)
        for name, (piece, _) in places.items():
            missing = np.flatnonzero((real | (piece < 0).all()) & (piece < 0))
            if len(missing):
                some = ", ".join(f"id {ids[row]} view {views[row]}" for row in missing[:3])
                raise SignalError(
                    f"{len(missing)} of {int(real.sum())} rows have no stored {name!r} (first: {some}) in "
                    f"{self.store.folder}: the store was made for other data, or labelling was not finished."
                )
        shown: dict[str, Tensor] = {}
        for name, at in places.items():
            if self.codec and name == LOGITS:
                shown[name] = cast(Tensor, decoded(self.codec, self.store.read(name, at), batch))
            else:
                shown[name] = self.store.read(name, at, length_of(batch)).to(batch.ids.device)
        return shown


def label(
    teacher: CachedTeacher,
    examples: Examples,
    views: Sequence[int],
    batch_size: int,
    needs: frozenset[str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    device: torch.device | str = "cpu",
) -> None:
    """Stores the signals ``needs`` of every row of ``examples`` under each of ``views``. What is stored is skipped.

    ``on_progress`` is told (rows done, rows in all), the stored ones first.

    Raises:
        LimbeckError: as `CachedTeacher.observe`.
    """
    teacher.store.verify()
    rows = examples.rows.numpy()
    work: list[tuple[Ints, int]] = []
    for view in views:
        places = teacher.store.find(rows, np.full(len(rows), view), needs)
        missing = np.logical_or.reduce([piece < 0 for piece, _ in places.values()])
        work.append((rows[missing], view))
    total = len(rows) * len(views)
    done = total - sum(len(ids) for ids, _ in work)
    on_progress(done, total)
    try:
        for ids, view in work:
            for start in range(0, len(ids), batch_size):
                chunk = torch.from_numpy(ids[start : start + batch_size])
                teacher.observe(examples.batch(chunk, torch.full_like(chunk, view)).to(device), needs)
                done += len(chunk)
                on_progress(done, total)
    finally:
        teacher.flush()


def _rows(batch: Batch) -> tuple[Ints, Ints, Rows]:
    return batch.ids.cpu().numpy(), batch.views.cpu().numpy(), batch.masks[REAL].cpu().numpy()


def _filled(name: str, stored: Tensor, fresh: Tensor, rows: Rows) -> Tensor:
    """``stored`` [B, ...] with the fresh values put at ``rows``."""
    if stored.shape[1:] != fresh.shape[1:]:
        raise SignalError(
            f"Stored rows of {name!r} have the shape {list(stored.shape[1:])}, the teacher now gives "
            f"{list(fresh.shape[1:])}: give all inputs one shape, or teach with another signal."
        )
    both = torch.promote_types(stored.dtype, fresh.dtype)
    stored = stored.to(both)
    stored[torch.from_numpy(rows).to(stored.device)] = fresh.to(both)
    return stored


def _distinct(ids: Ints, views: Ints, rows: Rows) -> tuple[Ints, Ints]:
    """Where each (id, view) among ``rows`` is first, in order, and for every one of ``rows`` which of these it is."""
    at = np.flatnonzero(rows)
    pairs = np.stack([ids[at], views[at]], 1)
    _, first, back = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return at[first[order]], rank[back.reshape(-1)]
