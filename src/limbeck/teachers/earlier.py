"""Rows that an earlier store holds of the same teacher, found by what the teacher saw."""

from collections.abc import Collection
from typing import Self

import numpy as np

from limbeck.errors import LimbeckError
from limbeck.teachers.contents import CONTENT
from limbeck.teachers.rows import Rows
from limbeck.teachers.store import Store
from limbeck.teachers.store.codec import Ints
from limbeck.teachers.store.index import Places
from limbeck.teachers.store.writer import KEY


class Earlier:
    """One store of the same teacher, kept the same way, of other data. Rows stored without their content are not found."""

    def __init__(self, store: Store) -> None:
        self.store = store
        pairs = store.pairs()
        at = store.find(pairs[:, 0], pairs[:, 1], {CONTENT})[CONTENT]
        there = at[0] >= 0
        self._pairs = pairs[there]
        held = store.read(CONTENT, (at[0][there], at[1][there])).numpy() if there.any() else np.empty((0, 2), np.int64)
        order = np.lexsort((held[:, 1], held[:, 0]))
        self._pairs, self._held = self._pairs[order], held[order]

    @classmethod
    def than(cls, store: Store) -> list[Self]:
        """All such stores beside ``store``."""
        found = []
        for path in sorted(store.folder.parent.glob(f"*/{KEY}")):
            try:
                other = Store.at(path.parent)
            except LimbeckError:  # of another kind, or damaged
                continue
            if path.parent != store.folder and {**other.key, "inputs": ""} == {**store.key, "inputs": ""}:
                found.append(cls(other))
        return found

    def find(self, contents: Ints, names: Collection[str]) -> tuple[Rows, dict[str, Places]]:
        """Which rows it holds with all signals ``names``, bool [B], and where. ``contents``: int64 [B, 2]."""
        first = np.searchsorted(self._held[:, 0], contents[:, 0])
        last = np.searchsorted(self._held[:, 0], contents[:, 0], side="right")
        rows = np.full(len(contents), -1)
        for place in range(int((last - first).max(initial=0))):  # almost always one
            here = np.minimum(first + place, len(self._held) - 1)
            same = (first + place < last) & (self._held[here] == contents).all(1)
            rows = np.where(same & (rows < 0), here, rows)
        there = rows >= 0
        pairs = self._pairs[np.maximum(rows, 0)] if len(self._pairs) else np.zeros((len(contents), 2), np.int64)
        places = self.store.find(pairs[:, 0], pairs[:, 1], names, there)
        for piece, _ in places.values():
            there = there & (piece >= 0)
        gone = ~there
        return there, {
            name: (np.where(gone, -1, piece), np.where(gone, -1, row)) for name, (piece, row) in places.items()
        }
