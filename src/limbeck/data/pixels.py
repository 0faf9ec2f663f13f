"""Anything that is an image to uint8 pixels of one size, always the same way."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from limbeck.errors import DataError

_GREY = {"1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_SAMPLE = 1000  # images looked at to find out their size and colours
Bytes = NDArray[np.uint8]


def picture(raw: Any) -> Image.Image:
    """A PIL image from a path, a PIL image, encoded bytes (also as ``{"bytes": ..., "path": ...}``), an array [H, W] or
    [H, W, C], or a tensor [H, W] or [C, H, W].

    Numbers are 0..255 (16-bit unsigned: 0..65535); floating point ones and booleans are 0..1.

    Raises:
        DataError: numbers of another range or shape. What PIL raises for a file passes through.
    """
    if isinstance(raw, Mapping):
        raw = raw["bytes"] if raw.get("bytes") is not None else raw["path"]
    if isinstance(raw, str | Path):
        with Image.open(raw) as image:
            image.load()
            return image
    if isinstance(raw, bytes):
        return picture(Image.open(io.BytesIO(raw)))
    if isinstance(raw, Image.Image):
        return raw
    if isinstance(raw, Tensor):
        raw = raw.detach().cpu().numpy()
        raw = np.moveaxis(raw, 0, -1) if raw.ndim == 3 else raw
    if not isinstance(raw, np.ndarray):
        raise DataError(f"a {type(raw).__name__} is no image: give a path, a PIL image, an array or a tensor.")
    return Image.fromarray(_array(raw))


def _array(raw: NDArray[Any]) -> Bytes:
    """[H, W], [H, W, 3] or [H, W, 4] bytes."""
    if raw.ndim == 3 and raw.shape[-1] == 1:
        raw = raw[..., 0]
    if raw.size == 0 or not (raw.ndim == 2 or (raw.ndim == 3 and raw.shape[-1] in (3, 4))):
        raise DataError(
            f"an image of shape {tuple(raw.shape)} cannot be read: arrays are [height, width] or [height, width, "
            "channels], tensors [height, width] or [channels, height, width], with 1, 3 or 4 channels."
        )
    white = 255 if raw.dtype.kind in "iu" else 1
    if raw.dtype == np.uint16:
        white = 65535
    if raw.dtype != np.uint8:
        low, high = raw.min(), raw.max()
        if not (low >= 0 and high <= white):  # also true of NaN
            raise DataError(
                f"an image of {raw.dtype} numbers holds values from {low} to {high}, but 0 is black and {white} is "
                "white: scale them, and do not normalise them beforehand."
            )
        raw = np.rint(raw.astype(np.float64) * (255 / white)).astype(np.uint8)
    return np.ascontiguousarray(raw)


def pixels_of(raw: Any, height: int, width: int, channels: int) -> Bytes:
    """Bytes [channels, height, width] of anything ``picture`` takes.

    Turned as the camera says (EXIF); 16-bit scaled to 8 (mode I: only if a value is above 255); transparency laid on
    white; resized without keeping the ratio of sides, bilinear with antialiasing.
    """
    image = ImageOps.exif_transpose(picture(raw))
    if image.mode in _GREY - {"1", "L"}:
        deep = np.clip(np.asarray(image), 0, 65535)
        eight = image.mode == "I" and deep.max() <= 255  # 32 bits that hold 8, as convert("I") makes
        image = Image.fromarray(_array(deep.astype(np.uint8 if eight else np.uint16)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    bytes_ = np.array(image)
    return bytes_[None] if channels == 1 else np.ascontiguousarray(np.moveaxis(bytes_, -1, 0))


def is_grey(image: Image.Image) -> bool:
    """Whether one channel says it all."""
    return image.mode in _GREY


def name_of(raw: Any, row: int) -> str:
    """How to call an image in an error: its path, else its row."""
    path = raw.get("path") if isinstance(raw, Mapping) else raw
    return str(path) if isinstance(path, str | Path) else f"image {row}"


def shape_of(images: Sequence[Any]) -> tuple[int, int, int]:
    """The commonest height and width, and 1 channel if all are grey, else 3; from up to 1,000 images spread evenly."""
    step = max(1, len(images) // _SAMPLE)
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for row in range(0, len(images), step):
        try:
            image = _opened(images[row])
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: on its side
        except Exception:  # noqa: S112 - every unreadable image is named later, all at once
            continue
        sizes[image.size if turned else (image.height, image.width)] += 1
        grey = grey and is_grey(image)
    if not sizes:
        raise unreadable([name_of(images[row], row) for row in range(len(images))])
    (height, width), _ = max(sizes.items(), key=lambda item: (item[1], item[0]))
    return height, width, 1 if grey else 3


def _opened(raw: Any) -> Image.Image:
    """The image, from a file only as far as its size and mode."""
    if isinstance(raw, Mapping):
        raw = io.BytesIO(raw["bytes"]) if raw.get("bytes") is not None else raw["path"]
    if isinstance(raw, str | Path):
        raw = io.BytesIO(Path(raw).read_bytes())
    return Image.open(raw) if isinstance(raw, io.BytesIO) else picture(raw)


def decoded(images: Sequence[Any], height: int, width: int, channels: int) -> Tensor:
    """All images, uint8 [N, channels, height, width].

    Raises:
        DataError: some cannot be read; names them.
    """
    result = torch.empty((len(images), channels, height, width), dtype=torch.uint8)
    broken, absent = [], []
    for row in range(len(images)):
        raw = images[row]
        try:
            result[row] = torch.from_numpy(pixels_of(raw, height, width, channels))
        except DataError as error:
            raise DataError(f"{name_of(raw, row)}: {error}") from error
        except FileNotFoundError:
            absent.append(name_of(raw, row))
        except Exception:  # PIL raises many kinds for a broken file
            broken.append(name_of(raw, row))
    if absent:
        raise DataError(f"There {'are no files' if len(absent) > 1 else 'is no file'} {_listed(absent)}.")
    if broken:
        raise unreadable(broken)
    return result


def unreadable(names: list[str]) -> DataError:
    """The error that names images which cannot be decoded, the first five in full."""
    count = f"{len(names)} images" if len(names) > 1 else "1 image"
    return DataError(
        f"{count} cannot be read, being damaged or no images at all: {_listed(names)}. Mend or remove them."
    )


def _listed(names: list[str]) -> str:
    """The first five in full."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
