"""`Store`: rows of teacher outputs under one key. Many may read and write at once; nothing is ever half there."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.teachers.store import codec, frame
from limbeck.teachers.store.codec import Column, Ints
from limbeck.teachers.store.index import Index, Places, either
from limbeck.teachers.store.shard import SUFFIX, DamagedError, Piece, Shard, content, set_aside
from limbeck.teachers.store.writer import KEY, Writer, a_link, read_key


def store_key(
    teacher: str, inputs: str, side: str = "teacher", logits: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All that stored outputs depend on: whose they are, on which inputs, read from which columns, kept how.

    ``logits``: the settings of the codec of the signal ``logits``; None: exact, as the other signals are.
    """
    key = {"teacher": teacher, "inputs": inputs, "side": side, "codec": codec.NAME, "version": codec.VERSION}
    return key if logits is None else key | {"logits": dict(logits), "frame": frame.VERSION}


OWN = "#"
"""What the names of columns begin with that are no signals."""


class Store:
    """Teacher outputs by (id, view) and signal name, in ``root/<digest of key>``.

    Added rows are kept in memory until ``shard_rows`` of them, or ``shard_bytes``, are committed as one file, and at
    `flush`. What was added in one call is committed together. A damaged file is set aside, and its rows are missing.

    Args:
        root: the folder of stores; nothing is made there before the first commit.
        key: JSON types; see `store_key`.
    """

    def __init__(
        self, root: Path, key: Mapping[str, Any], *, shard_rows: int = 4096, shard_bytes: int = 8 * 2**20
    ) -> None:
        self.folder, self.key = Path(root) / digest(key), dict(key)
        self.shard_rows, self.shard_bytes = shard_rows, shard_bytes
        self._pieces: dict[int, Piece] = {}
        self._next = 0
        self._known: set[Path] = set()
        self._index = Index()  # committed rows
        self._pending: list[int] = []
        self._pending_index = Index()
        self._pending_size = [0, 0]  # rows, bytes
        self._writer: Writer | None = None
        self._listed = False

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The store in ``folder``, whatever the folder is called, by the key that is written there.

        Raises:
            LimbeckError: there is no store, or its key is damaged.
        """
        store = cls(folder.parent, read_key(folder / KEY))
        store.folder = folder
        return store

    @property
    def names(self) -> frozenset[str]:
        """The signals that some row has."""
        self._list_once()
        return frozenset(name for name in self._index.names | self._pending_index.names if not name.startswith(OWN))

    def refresh(self) -> bool:
        """Takes in the shards that others committed meanwhile; whether there were any.

        Raises:
            LimbeckError: the folder holds another store's.
        """
        self._demand_own()
        self._listed = True
        own = str(self._writer.folder) if self._writer else ""
        found: list[Path] = []
        for folder in _entries(self.folder, "w-"):
            if folder.is_symlink():
                raise a_link(Path(folder.path))
            if folder.path != own:
                found += (Path(entry.path) for entry in _entries(Path(folder.path), "") if _is_shard(entry.name))
        new = sorted(set(found) - self._known)
        return sum(self._take_in(path) for path in new) > 0

    def _demand_own(self) -> None:
        """A folder that was moved here is not this store."""
        try:
            found = read_key(self.folder / KEY)
        except LimbeckError:
            return  # nothing there, or damaged: whatever shards there are have checksums of their own
        if digest(found) != digest(self.key):
            apart = ", ".join(sorted(name for name in {*found, *self.key} if found.get(name) != self.key.get(name)))
            raise LimbeckError(
                f"The store in {self.folder} holds the outputs for another {apart}, so its folder was moved or renamed: move it "
                "back or delete it."
            )

    def _take_in(self, path: Path, verified: bool = False) -> bool:
        self._known.add(path)
        try:
            shard = Shard(path, verified)
        except DamagedError as damage:
            set_aside(path, damage)
            return False
        number = self._number(shard)
        self._index.add(number, shard.ids, shard.views, shard.names)
        return True

    def _number(self, piece: Piece) -> int:
        self._pieces[self._next] = piece
        self._next += 1
        return self._next - 1

    def _list_once(self) -> None:
        if not self._listed:
            self.refresh()

    def find(self, ids: Ints, views: Ints, names: Collection[str], wanted: Any = True) -> dict[str, Places]:
        """Where the rows lie (int64 [B] each). Looks for new shards if a row that is ``wanted`` (bool [B]) is missing.

        The pieces that are named have been verified, so that `read` gives what was added, or the row is missing.
        """
        self._list_once()
        places = self._find(ids, views, names)
        if any((wanted & (piece < 0)).any() for piece, _ in places.values()) and self.refresh():
            places = self._find(ids, views, names)
        while self._without_damage(places):
            places = self._find(ids, views, names)
        return places

    def _find(self, ids: Ints, views: Ints, names: Collection[str]) -> dict[str, Places]:
        places = self._index.find(ids, views, names)
        if not self._pending:
            return places
        pending = self._pending_index.find(ids, views, names)
        return {name: either(places[name], pending[name]) for name in places}

    def _without_damage(self, places: Mapping[str, Places]) -> bool:
        used = {number for piece, _ in places.values() for number in np.unique(piece).tolist() if number >= 0}
        return self._drop_damaged(used)

    def _drop_damaged(self, numbers: Collection[int]) -> bool:
        dropped = False
        for number in numbers:
            piece = self._pieces[number]
            try:
                piece.ready()
            except DamagedError as damage:
                assert isinstance(piece, Shard)
                set_aside(piece.path, damage)
                del self._pieces[number]
                dropped = True
        if dropped:
            self._index = Index()
            for number, piece in self._pieces.items():
                if isinstance(piece, Shard):
                    self._index.add(number, piece.ids, piece.views, piece.names)
        return dropped

    def verify(self) -> None:
        """Reads every committed file and sets the damaged ones aside."""
        self.refresh()
        self._drop_damaged([number for number, piece in self._pieces.items() if isinstance(piece, Shard)])

    def read(self, name: str, places: Places, length: int | None = None) -> Tensor:
        """The rows [B, ...] of signal ``name``, in the stored dtype, at `find`'s places; zeros where missing.

        Rows per token are cropped or padded with zeros to ``length``. At least one row must be there.
        """
        used = {number: self._pieces[number].columns[name] for number in np.unique(places[0]).tolist() if number >= 0}
        return codec.gather(name, places, used, length)

    def add(
        self,
        ids: Ints,
        views: Ints,
        signals: Mapping[str, Tensor],
        tokens: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
        coded: Mapping[str, Column] = MappingProxyType({}),
    ) -> None:
        """Adds rows, int64 [B] each, with their signals [B, ...] on the CPU, which must not be altered afterwards.

        ``tokens``: of signals which dimensions of a row are its length. ``coded``: further signals of the rows, as columns.

        Raises:
            LimbeckError: they had to be committed, and the disk is full.
        """
        if len(ids):
            columns = {name: Column(value.contiguous(), tokens.get(name, ())) for name, value in signals.items()}
            self._pending.append(self._number(Piece(ids.copy(), views.copy(), columns | dict(coded))))
            self._hold(self._pending[-1])
            if self._pending_size[0] >= self.shard_rows or self._pending_size[1] >= self.shard_bytes:
                self.flush()

    def flush(self) -> None:
        """Commits what is in memory.

        Raises:
            LimbeckError: the disk is full; the rows stay in memory.
        """
        kinds: dict[Any, list[int]] = {}
        for number in self._pending:
            columns = self._pieces[number].columns
            kinds.setdefault(tuple((name, *columns[name].kind) for name in sorted(columns)), []).append(number)
        try:
            for numbers in kinds.values():
                self._commit(numbers)
        finally:
            self._pending_index, self._pending_size = Index(), [0, 0]
            for number in self._pending:  # none, unless the disk is full
                self._hold(number)

    def _hold(self, number: int) -> None:
        piece = self._pieces[number]
        self._pending_index.add(number, piece.ids, piece.views, piece.names)
        self._pending_size[0] += len(piece.ids)
        self._pending_size[1] += piece.bytes

    def _commit(self, numbers: list[int]) -> None:
        if self._writer is None or self._writer.process != os.getpid():
            self._writer = Writer(self.folder, self.key)
        path = self._writer.commit(content([self._pieces[number] for number in numbers]))
        for number in numbers:
            del self._pieces[number]
            self._pending.remove(number)
        self._take_in(path, verified=True)

    def close(self) -> None:
        """Commits what is in memory and ends writing; the store can still be read."""
        self.flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def shards(self) -> list[Shard]:
        """The committed files."""
        self._list_once()
        return [piece for piece in self._pieces.values() if isinstance(piece, Shard)]

    def needed(self, shard: Shard) -> NDArray[np.bool_]:
        """Which rows of a committed file are read from there, [n]: the others lie in an earlier one, too."""
        number = next(number for number, piece in self._pieces.items() if piece is shard)
        found = np.zeros(len(shard.ids), dtype=bool)
        for piece, row in self._index.find(shard.ids, shard.views, shard.names).values():
            found |= (piece == number) & (row == np.arange(len(row)))
        return found

    def pairs(self) -> Ints:
        """Every committed (id, view), int64 [n, 2]."""
        self._list_once()
        return self._index.pairs()


def _entries(folder: Path, prefix: str) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.name.startswith(prefix)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_shard(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")
