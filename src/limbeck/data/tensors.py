"""Things that are tensors already, or nearly: to columns, stacked."""

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, Final, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limbeck.config import Config, digest
from limbeck.data.pixels import is_grey, pixels_of
from limbeck.errors import DataError

LABELS: Final = ("label", "labels", "target", "y")


class TensorReader(Config):
    """Tensors, arrays, images or numbers, as a map-style data set gives them, stacked to columns."""

    name: Literal["tensors"] = "tensors"
    """The kind of reader."""

    @property
    def fingerprint(self) -> str:
        """Names the conversion."""
        return digest(self)

    def encode(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """Columns [len(raw), ...] for inputs without labels, or mappings of such; see `columns_of`.

        Raises:
            DataError: they are of different shapes, or of no kind that can be stacked.
        """
        return stacked([columns_of(item) for item in raw])


def columns_of(item: Any) -> dict[str, Tensor]:
    """The columns of one input, without its label.

    A mapping gives its keys; an image gives ``pixel_values``; anything else ``x``. Images, which are PIL images and uint8
    arrays, become float32 [C, H, W] in [0, 1], other floating point float32; the rest is left as it is.

    Raises:
        DataError: it is of no kind that can be stacked.
    """
    if isinstance(item, Mapping):
        return {str(name): _tensor(value) for name, value in item.items() if name not in LABELS}
    return {"pixel_values" if _is_image(item) else "x": _tensor(item)}


def _is_image(value: Any) -> bool:
    array = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3)
    return array or isinstance(value, Image.Image)


def _tensor(value: Any) -> Tensor:
    if _is_image(value):
        height, width = value.shape[:2] if isinstance(value, np.ndarray) else (value.height, value.width)
        grey = is_grey(value) if isinstance(value, Image.Image) else value.ndim == 2 or value.shape[2] == 1
        return torch.from_numpy(pixels_of(value, height, width, 1 if grey else 3)).float() / 255
    if isinstance(value, np.ndarray | np.generic | Number | Tensor | list | tuple):
        try:
            tensor = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            pass
        else:
            return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    what = "a text" if isinstance(value, str) else f"a {type(value).__name__}"
    hint = "texts need a tokenizer: give them as a list" if isinstance(value, str) else "give tensors, arrays or images"
    raise DataError(f"the data set gives {what}, which cannot be stacked; {hint}.")


def stacked(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Columns [len(items), ...].

    Raises:
        DataError: items have different columns or shapes.
    """
    result = {}
    for name in items[0]:
        try:
            result[name] = torch.stack([item[name] for item in items])
        except KeyError:
            raise DataError(f"the column {name!r} is missing from some rows of the data set.") from None
        except (RuntimeError, TypeError):
            shapes = sorted({tuple(item[name].shape) for item in items})
            raise DataError(
                f"the rows of column {name!r} have different shapes, such as {shapes[0]} and {shapes[-1]}, and cannot be "
                "stacked: let the data set resize or pad them."
            ) from None
    return result
