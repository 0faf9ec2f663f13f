"""Any map-style data set as a table: its items are a pure function of (id, view), even if it augments at random."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from hashlib import blake2b
from typing import Any, Final, Self, final

import numpy as np
import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.data import fingerprint
from limbeck.data.augment import Augment
from limbeck.data.draw import words
from limbeck.data.images import PIXELS
from limbeck.data.tensors import LABELS, TensorReader, columns_of, stacked
from limbeck.errors import DataError

_SEED: Final = 21  # salt


@contextmanager
def _random_states() -> Iterator[None]:
    """Puts the random states of Python, NumPy and torch (CPU) back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _sow(word: int) -> None:
    random.seed(word)
    np.random.seed([word & 0xFFFFFFFF, word >> 32])
    torch.default_generator.manual_seed(word & 0x7FFFFFFFFFFFFFFF)  # torch.manual_seed would touch the devices too


@final
class MapTable:
    """A map-style data set, its items read on demand.

    ``dataset``: has ``__len__`` and ``__getitem__``; an item is ``(input, label)``, a mapping whose label is ``label``,
    ``labels``, ``target`` or ``y``, or an input alone. `tensors.columns_of` says what inputs become. The random
    generators of Python, NumPy and torch are seeded by (id, view) around each item, so that random augmentation gives
    the same again; they are what they were afterwards. Under view 0 the data set's own augmentation acts too: give
    validation and test parts that have none.

    The data set is read once, when it is wrapped. ``found``: the labels as they are. ``keys``: a hash of each input.
    """

    def __init__(self, dataset: Any, where: str = "the data set") -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"{where} is a {type(dataset).__name__}, which cannot be read by row: it needs __len__ and __getitem__ "
                "(a map-style data set). Write a stream to a list or a file first."
            )
        self.dataset = dataset
        self.reader = TensorReader()
        self.augment = Augment()
        self.where = where
        items = [self._item(row, 0) for row in range(len(dataset))]
        self.found = [label for _, label in items]
        self.keys = [_key(columns) for columns, _ in items]
        for view in (0, 1) if len(dataset) else ():
            if _key(self._item(0, view)[0]) != _key(self._item(0, view)[0]):
                raise DataError(
                    f"{where} gives another input each time row 0 is read, though random, numpy.random and torch were "
                    "seeded alike. Let it draw from those, not from a generator of its own."
                )

    @property
    def fingerprint(self) -> str:
        """Names every item as it is under view 0, and ``augment``; not what the data set does to other views."""
        return digest(["map", [key.hex() for key in self.keys], self.reader, self.augment])

    def augmented(self, augment: Augment) -> Self:
        """The same table with ``augment`` on top, for ``pixel_values`` in [0, 1].

        Raises:
            DataError: it has no such column.
        """
        if augment.empty:
            return self
        if len(self) and PIXELS not in (names := self._item(0, 0)[0]):
            raise DataError(f"'augment' alters images, but {self.where} gives {', '.join(sorted(names))}: leave it out.")
        table = copy(self)
        table.augment = augment
        return table

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Columns [B, ...] for ``ids`` and ``views``, both int64 [B].

        Raises:
            DataError: an item cannot be read, or has not the shape of the others.
        """
        pairs = zip(ids.tolist(), views.tolist(), strict=True)
        columns = stacked([self._item(row, view)[0] for row, view in pairs])
        if not self.augment.empty:
            columns[PIXELS] = self.augment.apply(columns[PIXELS], ids, views)
        return columns

    def show(self, row: int) -> Any:
        """The image, uint8 [height, width] or [height, width, 3], where it is one in [0, 1]; else a short text."""
        columns = self._item(row, 0)[0]
        image = columns.get(PIXELS)
        if image is not None and image.ndim == 3 and len(image) in (1, 3) and 0 <= image.min() and image.max() <= 1:
            bytes_ = (image * 255).round().to(torch.uint8).movedim(0, -1).numpy()
            return bytes_[..., 0] if len(image) == 1 else bytes_
        return ", ".join(f"{name} {value.flatten()[:8].tolist()}" for name, value in columns.items())

    def _item(self, row: int, view: int) -> tuple[dict[str, Tensor], Any]:
        word = int(words(_SEED, torch.tensor([row]), torch.tensor([view]))[0, 0])
        with _random_states():
            _sow(word)
            try:
                item = self.dataset[row]
            except Exception as error:
                raise DataError(f"{self.where}: row {row} cannot be read: {type(error).__name__}: {error}") from error
        label = None
        if isinstance(item, dict):
            label = next((item[name] for name in LABELS if name in item), None)
        elif isinstance(item, list | tuple):
            if not 1 <= len(item) <= 2:
                raise DataError(
                    f"{self.where}: row {row} is a {type(item).__name__} of {len(item)}, but (input, label) was expected. "
                    "Name several inputs in a dict."
                )
            label = item[1] if len(item) == 2 else None
            item = item[0]
        return columns_of(item), label


def _key(columns: dict[str, Tensor]) -> bytes:
    return blake2b(fingerprint.tensors(columns).encode(), digest_size=16).digest()
