"""Things that are tensors already, or nearly: to columns, stacked."""

import math
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from limbeck.config import Config, digest
from limbeck.data.batch import NO_LABEL
from limbeck.data.images import PIXELS
from limbeck.data.pixels import is_grey, pixels_of
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

LABELS: Final = ("label", "labels", "target", "targets", "y", "class")  # keys under which a mapping has its label
_PLAIN: Final = "x"
_SHOWN: Final = 8  # numbers of a row


class Column(Config):
    """One input of every row."""

    name: str
    """Its name, by which the model takes it."""
    dtype: str = Field(pattern=r"^(float32|u?int(8|16|32|64)|bool|complex(64|128))$")
    """The type of its numbers."""
    shape: tuple[int, ...]
    """Its shape in one row."""


class TensorReader(Config):
    """Tensors, arrays, images or numbers, as a map-style data set gives them, stacked to columns."""

    name: Literal["tensors"] = "tensors"
    """The kind of reader."""
    columns: tuple[Column, ...]
    """What every row has."""

    @classmethod
    def of(cls, row: Mapping[str, Tensor]) -> Self:
        """The reader of rows like this one, see `columns_of`."""
        kinds = {name: str(value.dtype).removeprefix("torch.") for name, value in row.items()}
        return cls(
            columns=tuple(Column(name=key, dtype=kinds[key], shape=tuple(row[key].shape)) for key in sorted(row))
        )

    @property
    def fingerprint(self) -> str:
        """Names the columns, their types and shapes."""
        return digest(self)

    def encode(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """Columns [len(raw), ...] for inputs as the data set gives them, without labels.

        ``raw``: tensors, arrays, numbers, lists of numbers or images; mappings where there are several columns, of which
        others than ``columns`` are left out. Images become float32 [channels, height, width] in [0, 1].

        Raises:
            DataError: one lacks a column, is of another shape or type, or of no kind that can be stacked.
        """
        rows = [self._row(item, place) for place, item in enumerate(raw)]
        return {
            column.name: torch.stack([row[column.name] for row in rows])
            if rows
            else torch.empty((0, *column.shape), dtype=getattr(torch, column.dtype))
            for column in self.columns
        }

    def _row(self, item: Any, place: int) -> dict[str, Tensor]:
        if not isinstance(item, Mapping):
            if len(self.columns) > 1:
                names = ", ".join(column.name for column in self.columns)
                raise DataError(f"input {place} is a {type(item).__name__}, but mappings with {names} are expected.")
            item = {self.columns[0].name: item}
        result = {}
        for column in self.columns:
            if column.name not in item:
                raise DataError(f"input {place} lacks the column {column.name!r}; it has {', '.join(map(str, item))}.")
            dtype = getattr(torch, column.dtype)
            channels = column.shape[0] if len(column.shape) == 3 and dtype == torch.float32 else 0
            try:
                value = _tensor(item[column.name], channels)
            except DataError as error:
                raise DataError(f"input {place}, column {column.name!r}: {error}") from error
            lost = not dtype.is_floating_point and bool((value != value.to(dtype)).any())
            if lost or tuple(value.shape) != column.shape:
                raise DataError(
                    f"input {place}, column {column.name!r}: it is {_told(value)}, but the model was trained on "
                    f"{column.dtype} of shape {list(column.shape)}. Prepare inputs as the data set did."
                )
            result[column.name] = value.to(dtype)
        return result


def _told(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"


def columns_of(item: Any) -> dict[str, Tensor]:
    """The columns of one input, without its label.

    A mapping gives its keys; an image gives ``pixel_values``; anything else ``x``. Images are PIL images, uint8 arrays
    [H, W] or [H, W, C], and uint8 tensors [1 or 3, H, W]; they become float32 [C, H, W] in [0, 1]. Other floating point
    becomes float32; the rest is left as it is.

    Raises:
        DataError: it is of no kind that can be stacked.
    """
    if isinstance(item, Mapping):
        columns = {}
        if not item.keys() - set(LABELS):
            raise DataError("there is no input, only a label.")
        for name, value in item.items():
            if name not in LABELS:
                try:
                    columns[str(name)] = _tensor(value)
                except DataError as error:
                    raise DataError(f"column {str(name)!r}: {error}") from error
        return columns
    return {PIXELS if _is_image(item) else _PLAIN: _tensor(item)}


def parted(item: Any, task: Task = CLASSES) -> tuple[Any, Any]:
    """The input and the label of one item: a class, as a whole number, a name, or None where there is none.

    Of another ``task`` the label is what `Task.read` takes, tensors and arrays as lists.

    None, NaN, ``""``, -1 and -100 mean that there is none.

    Raises:
        DataError: a sequence of neither one nor two, or the label is a fraction, another negative number or no scalar.
    """
    label_of = _label if task == CLASSES else _listed
    if isinstance(item, Mapping):
        return item, label_of(next((item[name] for name in LABELS if name in item), None))
    if isinstance(item, list | tuple):
        if not 1 <= len(item) <= 2:
            raise DataError(
                f"it is a {type(item).__name__} of {len(item)}, but (input, label) was expected. Name several inputs in "
                "a dict."
            )
        return item[0], label_of(item[1]) if len(item) == 2 else None
    return item, None


def _listed(label: Any) -> Any:
    return label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label


def _label(label: Any) -> int | str | None:
    if isinstance(label, Tensor | np.ndarray | np.generic):
        if math.prod(label.shape) != 1:
            raise DataError(
                f"its label has shape {list(label.shape)}; one class a row is needed, as a number or a name, unless another "
                "task is said."
            )
        label = label.item()
    if isinstance(label, str):
        return label.strip() or None
    if label is None or label in (-1, NO_LABEL) or label != label:  # NaN
        return None
    if not isinstance(label, int | float):
        raise DataError(f"its label is a {type(label).__name__}; one class a row is needed, as a number or a name.")
    if not float(label).is_integer():
        raise DataError(
            f"its label {label} is a fraction, but classes are needed (whole numbers or names). If the numbers themselves "
            "are to be learnt, say task='numbers'; else cut them into classes first."
        )
    if label < 0:
        raise DataError(f"its label {label} is negative: classes count from 0, and None, -1 or -100 mean no label.")
    return int(label)


def shown(row: Mapping[str, Tensor]) -> Any:
    """One row for a person: the image, uint8 [height, width] or [height, width, 3], where a column is one; else a text.

    Images that are not in [0, 1] are stretched from their darkest to their brightest value.
    """
    for image in row.values():
        if image.ndim == 3 and len(image) in (1, 3) and image.is_floating_point() and image.numel():
            low, high = image.aminmax()
            if low < 0 or high > 1:
                image = (image - low) / (high - low).clamp(min=1e-12)
            pixels = (image * 255).round().to(torch.uint8).movedim(0, -1).numpy()
            return pixels[..., 0] if len(image) == 1 else pixels
    return "; ".join(f"{name}: {_short(value)}" for name, value in row.items())


def _short(value: Tensor) -> str:
    numbers = value.flatten()[:_SHOWN].tolist()
    told = ", ".join(f"{number:.4g}" if isinstance(number, float) else str(number) for number in numbers)
    return told + (", ..." if value.numel() > _SHOWN else "")


def _is_image(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dtype == torch.uint8 and value.ndim == 3 and len(value) in (1, 3)
    return isinstance(value, Image.Image) or (
        isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3)
    )


def _tensor(value: Any, channels: int | None = None) -> Tensor:
    """``channels``: of an image; as many as it has itself if None; 0 where no image is expected."""
    if channels != 0 and _is_image(value):
        if isinstance(value, Tensor):
            return value.detach().cpu().float() / 255
        height, width = value.shape[:2] if isinstance(value, np.ndarray) else (value.height, value.width)
        grey = is_grey(value) if isinstance(value, Image.Image) else value.ndim == 2 or value.shape[2] == 1
        one = grey and channels != 3  # a grey image has colours enough for three channels, but not the other way round
        return torch.from_numpy(pixels_of(value, height, width, 1 if one else 3)).float() / 255
    if isinstance(value, Tensor | np.ndarray | np.generic | Number | list | tuple):
        try:
            tensor = torch.as_tensor(value).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            pass
        else:
            return tensor.float() if tensor.is_floating_point() else tensor
    what = "a text" if isinstance(value, str) else "nothing" if value is None else f"a {type(value).__name__}"
    hint = "texts need a tokenizer: give them as a list" if isinstance(value, str) else "give tensors, arrays or images"
    raise DataError(f"{what} cannot be stacked; {hint}.")
