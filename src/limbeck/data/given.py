"""`in_memory`: rows that a Python program holds, of any kind."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset

from limbeck.data.hub import raw_of
from limbeck.data.memory import MapTable
from limbeck.data.raw import Raw, named, rows_of, whole_texts
from limbeck.errors import DataError


class _Pairs:
    """Inputs and labels side by side, as a map-style data set."""

    def __init__(self, inputs: Any, labels: Any) -> None:
        self.inputs = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> Any:
        return self.inputs[row], self.labels[row]


def in_memory(
    train: Any,
    labels: Sequence[Any] | None = None,
    *,
    validation: Any = None,
    test: Any = None,
    classes: Sequence[str] | None = None,
    input: str | None = None,  # noqa: A002 - as in a recipe
    label: str = "label",
    where: str = "the data in memory",
) -> Raw:
    """Rows in memory as `Data.load` takes them: ``Data(source="in-memory").load(raw=in_memory(dataset))``.

    ``train``: texts with ``labels``; images with ``labels`` (uint8 [N, H, W], an array [N, H, W, C] or a tensor
    [N, C, H, W]); any other array or tensor [N, ...] with ``labels``; a dataset of the Hugging Face library, with columns
    ``input`` and ``label``; or any map-style data set, see `MapTable`. ``validation``, ``test``: the same, a pair
    ``(train, labels)`` where labels are apart. ``classes``: their names in order; numbers are indices of them.
    Rows without a label (None, -1, -100) are trained on without one.

    Raises:
        DataError: it is of no such kind, or empty.
    """
    apart = labels is not None
    parts = [(train, labels), *(part if apart and part is not None else (part, None) for part in (validation, test))]
    present = [part for part in parts if part[0] is not None]
    for inputs, known in present:
        if apart and (known is None or len(inputs) != len(known)):
            count = "no" if known is None else len(known)
            raise DataError(f"{where}: {len(inputs)} inputs have {count} labels; give one a row, None where unknown.")
    if hasattr(train, "column_names") and hasattr(train, "features"):
        return raw_of([part for part, _ in parts], input, label, where, tuple(classes) if classes else None)
    if apart and all(isinstance(inputs, list | tuple) and inputs and isinstance(inputs[0], str) for inputs, _ in present):
        pairs = [whole_texts(list(inputs), list(known or ()), where) for inputs, known in present]
        return _joined("texts", [text for texts, _ in pairs for text in texts], pairs, parts, classes, where)
    if apart and all(_are_images(inputs) for inputs, _ in present):
        pixels = torch.cat([_pixels(inputs) for inputs, _ in present])
        return _joined("images", pixels, present, parts, classes, where)
    datasets = [_Pairs(inputs, known) if apart else inputs for inputs, known in present]
    table = MapTable(ConcatDataset(datasets) if len(datasets) > 1 else datasets[0], where)
    found = iter(table.found)
    pairs = [(range(len(part)), [next(found) for _ in range(len(part))]) for part in datasets]
    return _joined("tensors", table, pairs, parts, classes, where)


def _joined(kind: Any, content: Any, present: Any, parts: Any, classes: Sequence[str] | None, where: str) -> Raw:
    labels, names = named([label for _, known in present for label in known], where, classes)
    rows = iter(rows_of([len(known) for _, known in present]))
    _, validation, test = (next(rows) if part[0] is not None else None for part in parts)
    return Raw(kind, content, labels, names, validation, test, where)


def _are_images(inputs: Any) -> bool:
    return inputs.ndim in (3, 4) and inputs.dtype in (np.uint8, torch.uint8) if hasattr(inputs, "ndim") else False


def _pixels(inputs: Any) -> torch.Tensor:
    """uint8 [N, C, H, W]."""
    channels_last = isinstance(inputs, np.ndarray) and inputs.ndim == 4
    pixels = torch.as_tensor(np.ascontiguousarray(inputs) if isinstance(inputs, np.ndarray) else inputs)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1) if channels_last else pixels
    if pixels.shape[1] not in (1, 3):
        raise DataError(f"images of shape {list(inputs.shape)} have {pixels.shape[1]} channels; 1 or 3 are needed.")
    return pixels.contiguous()
