"""Upkeep of stores: which there are, whether they are whole, fewer files, and less room."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import Busy, LimbeckError
from limbeck.files import held, sync
from limbeck.teachers.store import codec
from limbeck.teachers.store.describe import StoreInfo, describe
from limbeck.teachers.store.shard import ASIDE, Piece, Shard, content
from limbeck.teachers.store.store import Store
from limbeck.teachers.store.writer import KEY, Writer, left, sweep, writers

_DAY = 86_400.0
_GONE = ".limbeck-removed-"


@dataclass(frozen=True)
class Kept:
    """A store as it is found: ``info``, None if it is damaged as ``why`` says; ``days`` since it was last written to."""

    folder: Path
    info: StoreInfo | None
    why: str
    days: float


@dataclass(frozen=True)
class Verified:
    """``files`` were read, of which ``damaged`` were set aside; ``rows`` (id, view) went with them."""

    files: int
    damaged: int
    rows: int


@dataclass(frozen=True)
class Compacted:
    """Files and bytes before and after. ``twice``: rows that lay in two of them; ``busy``: writers that were left alone."""

    files: tuple[int, int]
    bytes: tuple[int, int]
    twice: int
    busy: int


def folders(root: Path) -> list[Path]:
    """The store that ``root`` is, or those that lie in it; nothing in them is read yet.

    Raises:
        LimbeckError: there is no such folder.
    """
    if not root.is_dir():
        raise LimbeckError(f"There is no folder {root}: teacher outputs are stored when a recipe is run or labelled.")
    if (root / KEY).exists():
        return [root]
    return sorted(path.parent for path in root.glob(f"*/{KEY}") if not path.parent.name.startswith(_GONE))


def stores(root: Path) -> list[Kept]:
    """The stores of `folders`, the newest first."""
    return sorted((_kept(folder) for folder in folders(root)), key=lambda one: (one.days, one.folder))


def _kept(folder: Path) -> Kept:
    newest = max((path.stat().st_mtime for path in (folder, *folder.glob("w-*"))), default=0.0)
    days = max(0.0, time.time() - newest) / _DAY
    try:
        return Kept(folder, describe(Store.at(folder)), "", days)
    except LimbeckError as error:
        return Kept(folder, None, str(error), days)


def verify(folder: Path) -> Verified:
    """Reads every committed byte of a store; damaged files are set aside, so that their rows are asked of the teacher again.

    Raises:
        LimbeckError: there is no store, or the system does not let it be read.
    """
    there, store = _files(folder), Store.at(folder)
    rows = {
        shard.path: len(shard.ids) for shard in store.shards()
    }  # of a file whose beginning is damaged nobody knows how many
    store.verify()
    gone = set(there) - {shard.path for shard in store.shards()}  # others may have added some meanwhile
    return Verified(len(there), len(gone), sum(rows.get(path, 0) for path in gone))


def compact(folder: Path) -> Compacted:
    """Writes what lies in many small files, or twice, into few: what a store holds is afterwards what it held before.

    Files of usual size without a row that lies elsewhere too are left as they are, and so are writers at work. New files are
    durable before old ones go: killed at any moment, nothing is lost, and the next time goes on.

    Raises:
        LimbeckError: there is no store, or the disk is full.
        Busy: it is being compacted by another process.
    """
    with held(folder / ".compact", "it is being compacted"), ExitStack() as stack:
        free = {path for path in writers(folder) if stack.enter_context(left(path))}
        busy = len(writers(folder)) - len(free)
        store = Store.at(folder)
        store.verify()
        before = describe(store)
        small = [shard for shard in store.shards() if shard.path.parent in free]
        rows = {id(shard): np.flatnonzero(store.needed(shard)) for shard in small}
        small = [shard for shard in small if len(rows[id(shard)]) < len(shard.ids) or not _large(shard, store)]
        kinds: dict[Any, list[Shard]] = {}
        for shard in small:
            kind = tuple((name, *shard.columns[name].kind) for name in sorted(shard.names))
            kinds.setdefault(kind, []).append(shard)
        alone = [one for one, *others in kinds.values() if not others and len(rows[id(one)]) == len(one.ids)]
        small = [shard for shard in small if shard not in alone]  # one small file is as few as can be
        twice = sum(len(shard.ids) - len(rows[id(shard)]) for shard in small)
        writer = Writer(folder, store.key)
        try:
            for shards in kinds.values():
                for packed in _repacked([one for one in shards if one in small], rows, store):
                    writer.commit(packed)
        finally:
            writer.close()
        for shard in small:
            shard.path.unlink(missing_ok=True)
            sync(shard.path.parent)
    _tidy(folder)
    after = describe(Store.at(folder))
    return Compacted((before.shards, after.shards), (before.bytes, after.bytes), twice, busy)


def _large(shard: Shard, store: Store) -> bool:
    """Whether a file is as large as files become, or half of that."""
    return 2 * len(shard.ids) >= store.shard_rows or 2 * shard.bytes >= store.shard_bytes


def _repacked(shards: list[Shard], rows: dict[int, codec.Ints], store: Store) -> Iterator[bytes]:
    """The contents of new files, of the usual size, with these rows of files of one kind."""
    pieces, count, size = list[Piece](), 0, 0
    for shard in shards:
        own = rows[id(shard)]
        if not len(own):
            continue
        columns = {name: codec.taken(column, own) for name, column in shard.columns.items()}
        pieces.append(Piece(shard.ids[own], shard.views[own], columns))
        count, size = count + len(own), size + pieces[-1].bytes
        if count >= store.shard_rows or size >= store.shard_bytes:
            yield content(pieces)
            pieces, count, size = [], 0, 0
    if pieces:
        yield content(pieces)


def _tidy(folder: Path) -> None:
    """Removes what killed writers left, and folders without a file."""
    with held(folder, "it is being cleaned", wait=True):
        sweep(folder)


def leftovers(folder: Path) -> int:
    """Bytes of files that were set aside as damaged."""
    return sum(path.stat().st_size for path in (folder / ASIDE).glob("*"))


def clean(folder: Path) -> None:
    """Removes what a store does not need: files that were set aside as damaged, and what killed writers left half written."""
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
    _tidy(folder)


def remove(folder: Path) -> None:
    """Removes a whole store.

    Raises:
        Busy: somebody writes into it.
    """
    with held(folder, "it is being removed"), ExitStack() as stack:
        if not all(stack.enter_context(left(path)) for path in writers(folder)):
            raise Busy(f"{folder} is being written to: wait for that process to end.")
        gone = folder.parent / f"{_GONE}{folder.name}"  # at once, so that nobody finds half of it
        folder.rename(gone)
        sync(folder.parent)
    for one in folder.parent.glob(f"{_GONE}*"):  # and what a killed process did not come to
        shutil.rmtree(one, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("w-*/*.safetensors") if not path.name.startswith(".")]
