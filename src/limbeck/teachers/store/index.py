"""Where a row lies: (id, view) to (piece, row), looked up for a whole batch at a time."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np

from limbeck.teachers.store.codec import Ints

_SPREAD = np.int64(-7046029254386353131)  # 2^64 / golden ratio: keeps the keys of different views apart

Places = tuple[Ints, Ints]
"""Piece and row, int64 [B] each; -1 where a row is missing."""


def _keys(ids: Ints, views: Ints) -> Ints:
    return ids + views * _SPREAD  # wraps; two pairs with one key are told apart when looked up


@dataclass(frozen=True)
class _Run:
    keys: Ints  # sorted; of equal ones the earliest added comes first
    ids: Ints
    views: Ints
    pieces: Ints
    rows: Ints

    @classmethod
    def of(cls, ids: Ints, views: Ints, piece: int) -> Self:
        run = cls(_keys(ids, views), ids, views, np.full(len(ids), piece), np.arange(len(ids)))
        return run._sorted()

    def _sorted(self) -> Self:
        order = np.argsort(self.keys, kind="stable")
        return type(self)(self.keys[order], self.ids[order], self.views[order], self.pieces[order], self.rows[order])

    def then(self, later: Self) -> Self:
        both = [np.concatenate([mine, its]) for mine, its in zip(self._parts(), later._parts(), strict=True)]
        return type(self)(*both)._sorted()

    def _parts(self) -> tuple[Ints, ...]:
        return self.keys, self.ids, self.views, self.pieces, self.rows

    def find(self, keys: Ints, ids: Ints, views: Ints) -> Places:
        piece, row = np.full(len(keys), -1), np.full(len(keys), -1)
        at = np.searchsorted(self.keys, keys)
        still = np.arange(len(keys))
        while len(still):
            here = at[still]
            inside = here < len(self.keys)
            still, here = still[inside], here[inside]
            alike = self.keys[here] == keys[still]
            still, here = still[alike], here[alike]
            found = (self.ids[here] == ids[still]) & (self.views[here] == views[still])
            piece[still[found]] = self.pieces[here[found]]
            row[still[found]] = self.rows[here[found]]
            still = still[~found]
            at[still] += 1
        return piece, row


class Index:
    """The rows of many pieces. Of a row that was added twice, the first is found."""

    def __init__(self) -> None:
        self._groups: dict[frozenset[str], list[_Run]] = {}

    def add(self, piece: int, ids: Ints, views: Ints, names: Collection[str]) -> None:
        """Adds the rows of ``piece``, each with all the signals ``names``."""
        runs = self._groups.setdefault(frozenset(names), [])
        runs.append(_Run.of(ids, views, piece))
        while len(runs) > 1 and 2 * len(runs[-1].keys) > len(runs[-2].keys):  # sizes halve: few runs, few sorts
            last = runs.pop()
            runs[-1] = runs[-1].then(last)

    def find(self, ids: Ints, views: Ints, names: Collection[str]) -> dict[str, Places]:
        """Where each of the signals ``names`` lies for every row (int64 [B] each)."""
        keys = _keys(ids, views)
        known: dict[frozenset[str], Places] = {}
        found: dict[str, Places] = {}
        for name in names:
            places = np.full(len(ids), -1), np.full(len(ids), -1)
            for group in self._groups:
                if name in group:
                    if group not in known:
                        known[group] = self._find(group, keys, ids, views)
                    places = either(places, known[group])
            found[name] = places
        return found

    def _find(self, group: frozenset[str], keys: Ints, ids: Ints, views: Ints) -> Places:
        runs = self._groups[group]
        places = runs[0].find(keys, ids, views)
        for run in runs[1:]:
            missing = np.flatnonzero(places[0] < 0)
            if not len(missing):
                break
            piece, row = run.find(keys[missing], ids[missing], views[missing])
            places[0][missing], places[1][missing] = piece, row
        return places

    @property
    def names(self) -> frozenset[str]:
        """The signals that some row has."""
        return frozenset[str]().union(*self._groups)

    def pairs(self) -> Ints:
        """Every (id, view) once, int64 [n, 2]."""
        runs = [np.stack([run.ids, run.views], 1) for group in self._groups.values() for run in group]
        return np.unique(np.concatenate(runs), axis=0) if runs else np.empty((0, 2), np.int64)


def either(first: Places, second: Places) -> Places:
    """The first places, and the second where those are missing."""
    missing = first[0] < 0
    if missing.all():
        return second
    if not missing.any():
        return first
    return np.where(missing, second[0], first[0]), np.where(missing, second[1], first[1])
