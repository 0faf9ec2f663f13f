"""`Raw`: what a source gives before it is split, and the names of its classes."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from limbeck.data.batch import NO_LABEL
from limbeck.data.images import ImageFiles
from limbeck.data.pixels import decoded, shape_of
from limbeck.errors import DataError, nearest

log = logging.getLogger("limbeck.data")

Side = Annotated[int, Field(ge=1)]
"""Pixels."""

_MEMORY: Final = 2**31  # bytes that decoded images may take
_FEW: Final = 0.1  # of the texts may be empty
_EMPTY: Final = ("", "nan", "NaN")


@dataclass(frozen=True)
class Raw:
    """The rows of a source in their own order.

    ``items``: of the kind ``images`` uint8 [N, C, H, W] or `ImageFiles`, of the kind ``texts`` strings.
    ``labels``: int64 [N], ``NO_LABEL`` where unknown. ``validation``, ``test``: the source's own parts as rows, int64,
    or None where it has none. ``name``: for errors.
    """

    kind: Literal["images", "texts"]
    items: Tensor | ImageFiles | Sequence[str]
    labels: Tensor
    classes: tuple[str, ...]
    validation: Tensor | None = None
    test: Tensor | None = None
    name: str = "the data"

    def __post_init__(self) -> None:
        if len(self.items) != len(self.labels):
            raise DataError(f"{self.name}: there are {len(self.items)} inputs but {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.labels)


def existing(path: str | Path) -> Path:
    """The file at ``path``, ``~`` expanded.

    Raises:
        DataError: there is none; names those beside it that are spelt alike.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"{file} is a folder, but a file is needed here.")
    if not file.is_file():
        try:
            beside = [item.name for item in file.parent.iterdir()]
        except OSError:
            raise DataError(f"There is no file {file}, nor a folder {file.parent} that can be read.") from None
        hint = nearest(file.name, beside)
        raise DataError(f"There is no file {file}{'; ' + hint if hint else '.'}")
    return file


def rows_of(lengths: Sequence[int]) -> list[Tensor | None]:
    """Row numbers of consecutive parts of ``lengths``; None for an empty part."""
    ends = [sum(lengths[: part + 1]) for part in range(len(lengths))]
    return [torch.arange(end - length, end) if length else None for end, length in zip(ends, lengths, strict=True)]


def images_of(files: Sequence[Any], size: int | tuple[int, int] | None, channels: int | None) -> Tensor | ImageFiles:
    """Images for `Raw.items`, decoded if all of them fit in 2 GiB, else files that are decoded when they are read.

    ``files``: anything `pixels.picture` takes. ``size``: side or (height, width); None: the commonest of the data.
    ``channels``: 1 or 3; None: 1 if all are grey, else 3.

    Raises:
        DataError: some cannot be read.
    """
    if size is None or channels is None:
        height, width, found = shape_of(files)
        channels = channels or found
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
    if len(files) * channels * height * width > _MEMORY:
        return ImageFiles(files, height, width, channels)
    return decoded(files, height, width, channels)


def named(labels: Sequence[Any], where: str, classes: Sequence[str] | None = None) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as int64 [n] and the names of the classes.

    ``labels``: whole numbers or names; None, NaN, ``""``, -1 and -100 mean none. ``classes``: the names in order, if
    known; else those that occur, sorted. Numbers are indices of ``classes``, where that is given.

    Raises:
        DataError: fractions, a number outside the classes, or an unknown name.
    """
    plain = [_plain(label, where) for label in labels]
    if classes is None and (hidden := sum(label in (-1, NO_LABEL) for label in labels if isinstance(label, int))):
        log.warning("%s: %d rows have the label -1 or %d, which means none", where, hidden, NO_LABEL)
    whole = all(isinstance(label, int) for label in plain if label is not None)
    if not whole:
        plain = [None if label is None else str(label) for label in plain]
    seen = {label for label in plain if label is not None}
    if classes is not None:
        known = {index if whole else name: index for index, name in enumerate(classes)}
        for label in sorted(seen - known.keys(), key=str):
            hint = "" if whole else nearest(str(label), list(classes))
            allowed = f"0 to {len(classes) - 1}" if whole else ", ".join(map(repr, list(classes)[:10]))
            raise DataError(
                f"{where}: the label {label!r} of row {plain.index(label)} is none of the {len(classes)} classes "
                f"({allowed}){'; ' + hint if hint else '.'} Mend the label or the list of classes."
            )
        names = tuple(classes)
    else:
        ordered = _sorted(seen, where)
        known = {label: index for index, label in enumerate(ordered)}
        names = tuple(str(label) for label in ordered)
        if whole and ordered != list(range(len(ordered))):
            log.warning("%s: the labels are not 0 to %d, so they were numbered in order", where, len(ordered) - 1)
    return torch.tensor([NO_LABEL if label is None else known[label] for label in plain], dtype=torch.int64), names


def _plain(label: Any, where: str) -> int | str | None:
    if hasattr(label, "item") and not isinstance(label, str):  # tensors, arrays and their scalars
        if math.prod(getattr(label, "shape", ())) != 1:
            shape = tuple(label.shape)
            raise DataError(
                f"{where}: a label has the shape {shape}; one class a row is needed, as a number or a name."
            )
        label = label.item()
    if label is None or label in ("", -1, NO_LABEL) or (isinstance(label, float) and math.isnan(label)):
        return None
    if isinstance(label, float):
        if not label.is_integer():
            raise _fractions(label, where)
        return int(label)
    return int(label) if isinstance(label, bool | int) else str(label).strip() or None


def _fractions(label: Any, where: str) -> DataError:
    return DataError(
        f"{where}: the label {label} is a fraction, but classes are needed (whole numbers or names); learning numbers "
        "is not supported. Cut the numbers into classes first."
    )


def _sorted(seen: set[int | str], where: str) -> list[int | str]:
    """The labels in order: by number if all are numbers, else as text."""
    try:
        numbers = {label: float(label) for label in seen}
    except ValueError:
        return sorted(seen, key=str)
    for label, number in numbers.items():
        if not number.is_integer():
            raise _fractions(label, where)
    return sorted(seen, key=lambda label: (numbers[label], str(label)))


def whole_texts(texts: Sequence[Any], labels: Sequence[Any], where: str) -> tuple[list[str], list[Any]]:
    """Texts and labels of the rows that have a text.

    Raises:
        DataError: there is no row, or more than a tenth has no text.
    """
    kept = [row for row, text in enumerate(texts) if isinstance(text, str) and text.strip() not in _EMPTY]
    lost = len(texts) - len(kept)
    if not texts:
        raise DataError(f"{where} has no rows.")
    if lost > _FEW * len(texts):
        raise DataError(
            f"{where}: {lost} of {len(texts)} rows have no text (empty, NaN or no string). Is it the right column?"
        )
    if lost:
        log.warning("%s: %d of %d rows without text were dropped", where, lost, len(texts))
    return [texts[row] for row in kept], [labels[row] for row in kept]
