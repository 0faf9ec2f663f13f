"""`Raw`: what a source gives before it is split, and the names of what is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from limbeck.data.images import ImageFiles
from limbeck.data.items import Item
from limbeck.data.labels import log
from limbeck.data.pixels import decoded, shape_of
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError, nearest

Side = Annotated[int, Field(ge=1)]
"""Pixels."""

_MEMORY: Final = 2**31  # bytes that decoded images may take
_FEW: Final = 0.1  # of the texts may be empty
_EMPTY: Final = ("", "nan", "NaN")


@dataclass(frozen=True)
class Raw:
    """The rows of a source in their own order.

    ``items``: of the kind ``images`` uint8 [N, C, H, W] or `ImageFiles`, of the kind ``texts`` see `items.Item`.
    ``labels``: what ``task.read`` gave, [N, ...]. ``classes``: the names of a model's outputs. ``validation``, ``test``: the
    source's own parts as rows, int64, or None where it has none. ``name``: for errors. ``task``: what the labels are for.
    ``domains``: what each row is from, where the source names it.
    """

    kind: Literal["images", "texts"]
    items: Tensor | ImageFiles | Sequence[Item]
    labels: Tensor
    classes: tuple[str, ...]
    validation: Tensor | None = None
    test: Tensor | None = None
    name: str = "the data"
    task: Task = CLASSES
    domains: tuple[str, ...] | None = None

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


def whole_texts(texts: Sequence[Any], labels: Sequence[Any], where: str) -> tuple[list[Any], list[Any]]:
    """Texts and labels of the rows that have a text; of a pair of texts, both.

    Raises:
        DataError: there is no row, or more than a tenth has no text.
    """
    kept = [row for row, text in enumerate(texts) if all(map(_whole, text if isinstance(text, tuple) else (text,)))]
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


def _whole(text: Any) -> bool:
    return isinstance(text, str) and text.strip() not in _EMPTY
