"""Any map-style data set as a table: its items are a pure function of (id, view), even if it augments at random."""

import copy
import inspect
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import blake2b
from typing import Any, Final, Self, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from limbeck.config import digest
from limbeck.data import fingerprint
from limbeck.data.augment import Augment
from limbeck.data.draw import words
from limbeck.data.images import PIXELS
from limbeck.data.labels import named
from limbeck.data.reader import Reader
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.data.tensors import LABELS, TensorReader, columns_of, parted, shown
from limbeck.errors import DataError

_SEED: Final = 21  # salt
_BLOCK: Final = 64  # rows read between two looks at the random states
_SAMPLE: Final = 64  # rows read again to learn whether views differ

_Item = tuple[dict[str, Tensor], Any]


@final
class MapTable:
    """A map-style data set, its items read on demand.

    ``dataset``: has ``__len__`` and ``__getitem__``; an item is ``(input, label)`` or a mapping that has its label under
    one of `tensors.LABELS`. `tensors.columns_of` says what inputs become. The random generators of Python, NumPy and torch
    are seeded by (id, view) around each item of a data set that draws from them, and are what they were afterwards. View
    0 of such a data set is a draw too: give validation and test parts that do not augment.

    The data set is read once, when it is wrapped. ``found``: the label of each row as `tensors.parted` gives it. ``keys``: a
    hash of each input under view 0. ``varies``: whether views differ.

    Raises:
        DataError: it cannot be read by row, is empty, has no label, or a row cannot be read, does not fit the others,
            has a NaN in it or no class for a label; names the row.
    """

    texts = None

    def __init__(self, dataset: Any, where: str = "the data set", task: Task = CLASSES) -> None:
        demand_rows(dataset, where)
        self.dataset = dataset
        self.where = where
        self.task = task
        self.augment = Augment()
        self.varies = False
        self.found: list[Any] = []
        self.keys: list[bytes] = []
        self._draws = False
        self._row: dict[str, Tensor] = {}
        self._range = (math.inf, -math.inf)  # of pixel_values
        with _random_states():
            for start in range(0, len(dataset), _BLOCK):
                self._scan(range(start, min(start + _BLOCK, len(dataset))))
            sample = self._sample()
        if all(label is None for label in self.found):
            raise DataError(
                f"{where}: no row has a label. Give (input, label) pairs, or mappings with one of {', '.join(LABELS)}."
            )
        self.reader: Reader = TensorReader.of(self._row)
        self._dtypes = {name: value.dtype for name, value in self._row.items()}
        drawn = [[key.hex() for key in sample], _source(dataset)] if self.varies else []
        self.fingerprint = digest(["map", [key.hex() for key in self.keys], drawn, self.reader])

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of a model's outputs: the data set's own ``classes``, else the labels that occur, in order."""
        return self._named[1]

    @cached_property
    def labels(self) -> Tensor:
        """Indices of ``classes``, int64 [len(self)], ``NO_LABEL`` where there is none; of other tasks see `Task.read`.

        Raises:
            DataError: a label is none of the data set's own classes, or not of the kind that the task needs.
        """
        return self._named[0]

    @cached_property
    def _named(self) -> tuple[Tensor, tuple[str, ...]]:
        names = None if self.task.gives == "numbers" else own_classes(self.dataset)
        if self.task == CLASSES:  # each label was looked at when it was read
            return named(self.found, self.where, names)
        return self.task.read(self.found, self.where, names)

    def augmented(self, augment: Augment) -> Self:
        """The same rows, whose images ``augment`` alters in addition under views above 0. Nothing is read again.

        Raises:
            DataError: the rows are not images in [0, 1].
        """
        if augment.empty:
            return self
        names = ", ".join(self._row)
        if names != PIXELS or self._row[PIXELS].ndim != 3 or self._range[0] < 0 or self._range[1] > 1:
            raise DataError(
                f"'augment' alters images in [0, 1], but {self.where} gives other numbers ({names}): leave it out, or let "
                "the data set give PIL images or uint8 arrays."
            )
        result = copy.copy(self)
        result.augment, result.varies = augment, True
        result.fingerprint = digest([self.fingerprint, augment])
        return result

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Columns [B, ...] for ``ids`` and ``views``, both int64 [B].

        Raises:
            DataError: an item cannot be read, or has under this view another shape than the others.
        """
        rows, seen = ids.tolist(), views.tolist()
        if self._draws:
            with _random_states():
                items = self._seeded(rows, seen)
        else:
            items = [self._item(row) for row in rows]
        for row, view, (item, _) in zip(rows, seen, items, strict=True):
            self._demand_fit(item, f"row {row} under view {view}")
        columns = {
            name: torch.stack([item[name].to(dtype) for item, _ in items])
            if items
            else torch.empty((0, *self._row[name].shape), dtype=dtype)
            for name, dtype in self._dtypes.items()
        }
        if not self.augment.empty:
            columns[PIXELS] = self.augment.apply(columns[PIXELS], ids, views)
        return columns

    def altered(self, ids: Tensor, views: Tensor) -> Tensor:
        """None of the rows: what a data set draws is its own affair."""
        return torch.zeros(len(ids), dtype=torch.bool)

    def raw(self, row: int) -> dict[str, Tensor]:
        """The columns of one row under view 0, without the label: ``reader.encode`` takes them as they are."""
        return {name: column[0] for name, column in self.read(torch.tensor([row]), torch.tensor([0])).items()}

    def show(self, row: int) -> Any:
        """The image, uint8 [height, width] or [height, width, 3], where a column is one; else a short text.

        Images that are not in [0, 1] are stretched from their darkest to their brightest value.
        """
        return shown(self.raw(row))

    def _scan(self, rows: range) -> None:
        items = []
        if not self._draws:
            before = _states()
            items = [self._item(row) for row in rows]
            self._draws = _moved(before)
        if self._draws:  # rows before these drew nothing, so they are the same under any seed
            items = self._seeded(rows, [0] * len(rows))
        for row, (item, label) in zip(rows, items, strict=True):
            self._row = self._row or item
            self._demand_fit(item, f"row {row}")
            for name, value in item.items():
                known = self._row[name]
                if known.dtype != value.dtype:  # a list of numbers may begin with a whole one
                    self._row[name] = known.to(torch.promote_types(known.dtype, value.dtype))
                if value.is_floating_point() and value.numel():
                    low, high = map(float, value.aminmax())
                    if not math.isfinite(high - low):
                        raise DataError(f"{self.where}: row {row} has a NaN or an infinite number in column {name!r}.")
                    if name == PIXELS:
                        self._range = min(self._range[0], low), max(self._range[1], high)
            self.found.append(label)
            self.keys.append(_key(item))

    def _sample(self) -> list[bytes]:
        """Hashes of some rows under views 1 and 2; learns whether views differ, and that the same view does not."""
        rows = list(range(0, len(self.keys), max(1, len(self.keys) // _SAMPLE)))
        if not self._draws:
            self._demand_same(rows, [self._item(row) for row in rows], [self.keys[row] for row in rows])
            return []
        drawn = [[_key(item) for item, _ in self._seeded(rows, [view] * len(rows))] for view in (1, 2)]
        self._demand_same(rows, self._seeded(rows, [0] * len(rows)), [self.keys[row] for row in rows])
        self.varies = any(len({self.keys[row], *keys}) > 1 for row, *keys in zip(rows, *drawn, strict=True))
        return drawn[0] + drawn[1]

    def _demand_same(self, rows: list[int], items: list[_Item], keys: list[bytes]) -> None:
        for row, (item, _), key in zip(rows, items, keys, strict=True):
            if _key(item) != key:
                raise DataError(
                    f"{self.where} gives another input when row {row} is read again, though random, numpy.random and "
                    "torch are seeded alike. Let it draw from those, not from a generator of its own."
                )

    def _demand_fit(self, item: Mapping[str, Tensor], which: str) -> None:
        if item.keys() != self._row.keys():
            found, first = ", ".join(item) or "none", ", ".join(self._row) or "none"
            raise DataError(f"{self.where}: {which} has the columns {found}, but row 0 has {first}.")
        for name, value in item.items():
            if value.shape != self._row[name].shape:
                raise DataError(
                    f"{self.where}: {which} has shape {list(value.shape)} in column {name!r}, but row 0 has "
                    f"{list(self._row[name].shape)}, and they cannot be stacked: let the data set resize or pad them."
                )

    def _seeded(self, rows: Sequence[int], views: Sequence[int]) -> list[_Item]:
        items = []
        seeds = words(_SEED, torch.tensor(rows), torch.tensor(views))[:, 0].tolist()
        for row, word in zip(rows, seeds, strict=True):
            random.seed(word)
            np.random.seed(word & 0xFFFFFFFF)
            torch.default_generator.manual_seed(word >> 1)  # torch.manual_seed would touch the devices too
            items.append(self._item(row))
        return items

    def _item(self, row: int) -> _Item:
        try:
            item = self.dataset[row]
        except Exception as error:
            raise DataError(f"{self.where}: row {row} cannot be read: {type(error).__name__}: {error}") from error
        try:
            given, label = parted(item, self.task)
            return columns_of(given), label
        except DataError as error:
            raise DataError(f"{self.where}: row {row}: {error}") from error


def _states() -> tuple[Any, Any, Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _moved(before: tuple[Any, Any, Tensor]) -> bool:
    now = _states()
    arrays = zip(before[1], now[1], strict=True)
    return (
        before[0] != now[0] or not all(map(np.array_equal, *zip(*arrays, strict=True))) or not before[2].equal(now[2])
    )


@contextmanager
def _random_states() -> Iterator[None]:
    """Puts the random states of Python, NumPy and torch (CPU) back afterwards."""
    before = _states()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def demand_rows(dataset: Any, where: str) -> None:
    """Raises a `DataError` for what cannot be read by row, or has no rows."""
    stream = isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
    if stream or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{where} is a {type(dataset).__name__}, which cannot be read by row: it needs __len__ and __getitem__ "
            "(a map-style data set). Write a stream to a list or a file first."
        )
    if isinstance(dataset, Mapping):
        parts = ", ".join(map(repr, list(dataset)[:5]))
        raise DataError(f"{where} is a mapping of {parts}, not rows: pass one of its parts, or rows that are mappings.")
    if not len(dataset):
        raise DataError(f"{where} has no rows.")


def _wrapped(dataset: Any, depth: int = 8) -> Iterator[Any]:
    """The data set, what it is a subset or a chain of, and so on."""
    yield dataset
    inner = [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())]
    for level in inner if depth else ():
        if level is not None:
            yield from _wrapped(level, depth - 1)


def own_classes(dataset: Any) -> tuple[str, ...] | None:
    """The names of the classes that a data set knows itself, in the order of their numbers."""
    for level in _wrapped(dataset):
        features = getattr(level, "features", None)
        kinds = [features[name] for name in LABELS if name in features] if isinstance(features, Mapping) else []
        for names in (getattr(level, "classes", None), *(getattr(kind, "names", None) for kind in kinds)):
            if isinstance(names, list | tuple) and names:
                return tuple(map(str, names))
    return None


def _source(dataset: Any) -> list[str]:
    """The source text of the classes that draw."""
    texts = []
    for level in _wrapped(dataset):
        try:
            texts.append(inspect.getsource(type(level)))
        except (OSError, TypeError):  # typed in by hand, or built in
            texts.append(type(level).__qualname__)
    return texts


def _key(columns: Mapping[str, Tensor]) -> bytes:
    return blake2b(fingerprint.tensors(columns).encode(), digest_size=16).digest()
