"""Images: the reader that a delivered student needs, and the table of them."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from limbeck.config import Config, digest
from limbeck.data import fingerprint
from limbeck.data.augment import Augment
from limbeck.data.pixels import decoded, name_of, pixels_of, unreadable

PIXELS: Final = "pixel_values"
_SAMPLE = 2000  # images decoded to measure brightness when they are not in memory


class ImageReader(Config):
    """Images of any size and mode to one normalised column."""

    name: Literal["images"] = "images"
    """The kind of reader."""
    height: int = Field(ge=1)
    """Pixels from top to bottom; images of another size are resized."""
    width: int = Field(ge=1)
    """Pixels from left to right."""
    channels: Literal[1, 3]
    """1 for grey, 3 for red, green and blue."""
    mean: tuple[float, ...]
    """What is subtracted from each channel, where black is 0 and white is 1."""
    std: tuple[float, ...]
    """What each channel is divided by thereafter."""

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError(f"'mean' and 'std' need {self.channels} numbers each, those of 'std' above 0")
        return self

    @property
    def fingerprint(self) -> str:
        """Names size and normalisation."""
        return digest(self)

    def encode(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """``pixel_values``, float32 [len(raw), channels, height, width], for paths, PIL images, arrays or tensors.

        Raises:
            DataError: some cannot be read.
        """
        return {PIXELS: self.normalised(decoded(raw, self.height, self.width, self.channels).float() / 255)}

    def normalised(self, images: Tensor) -> Tensor:
        """Images in [0, 1], float32 [B, C, H, W], less the mean and over the deviation."""
        shape = (1, self.channels, 1, 1)
        return (images - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)


@final
class ImageFiles:
    """Images that are decoded when they are read: ``files[ids]`` is uint8 [B, C, H, W]."""

    def __init__(self, files: Sequence[Any], height: int, width: int, channels: int) -> None:
        self.files = files
        self.shape = (len(files), channels, height, width)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, ids: Tensor) -> Tensor:
        _, channels, height, width = self.shape
        return decoded([self.files[row] for row in ids.tolist()], height, width, channels)

    def keys(self) -> list[bytes]:
        """A hash of each file, in one pass.

        Raises:
            DataError: some cannot be read; names them.
        """
        found, broken = [], []
        for row in range(len(self)):
            raw = self.files[row]
            try:
                found.append(_hash(self._content(raw)))
            except OSError:
                broken.append(name_of(raw, row))
        if broken:
            raise unreadable(broken)
        return found

    def _content(self, raw: Any) -> bytes | NDArray[np.uint8]:
        if isinstance(raw, Mapping):
            raw = raw["bytes"] if raw.get("bytes") is not None else raw["path"]
        if isinstance(raw, bytes):
            return raw
        if isinstance(raw, str | Path):
            return Path(raw).read_bytes()
        _, channels, height, width = self.shape
        return pixels_of(raw, height, width, channels)


def _hash(content: Any) -> bytes:
    return blake2b(content, digest_size=16).digest()


def image_keys(pixels: Tensor | ImageFiles) -> list[bytes]:
    """One key an image; equal keys mean equal images."""
    if isinstance(pixels, ImageFiles):
        return pixels.keys()
    return [_hash(row) for row in pixels.reshape(len(pixels), -1).contiguous().numpy()]


def brightness(pixels: Tensor | ImageFiles, rows: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over ``rows``, in [0, 1]; a channel without contrast has deviation 1.

    Images that are not in memory are measured on 2,000 of ``rows``, spread evenly.
    """
    if isinstance(pixels, ImageFiles):
        rows = rows[:: max(1, len(rows) // _SAMPLE)]
    levels = np.arange(256) / 255
    counts = np.zeros((pixels.shape[1], 256))  # exact, whatever the order
    for start in range(0, len(rows), 256):
        block = pixels[rows[start : start + 256]].numpy()
        for channel, count in enumerate(counts):
            count += np.bincount(block[:, channel].reshape(-1), minlength=256)
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    deviation = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))
    deviation[deviation < 1e-6] = 1.0
    return tuple(mean.round(6).tolist()), tuple(deviation.round(6).tolist())


@final
class ImageTable:
    """Images with any number of views.

    ``pixels``: uint8 [N, C, H, W], or ``ImageFiles`` where they do not fit in memory.
    """

    texts = None

    def __init__(self, pixels: Tensor | ImageFiles, reader: ImageReader, augment: Augment | None = None) -> None:
        self.pixels = pixels
        self.reader = reader
        self.augment = augment or Augment()
        if isinstance(pixels, ImageFiles):
            content = digest([key.hex() for key in pixels.keys()])  # noqa: SIM118 - no mapping
        else:
            content = fingerprint.tensors({PIXELS: pixels})
        self.fingerprint = digest(["images", content, self.reader, self.augment])

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        """``pixel_values``, float32 [B, C, H, W], for ``ids`` and ``views``, both int64 [B]."""
        return {PIXELS: self.reader.normalised(self.augment.apply(self.pixels[ids], ids, views))}

    def altered(self, ids: Tensor, views: Tensor) -> Tensor:
        """None of the rows: what an image shows stays what it is."""
        return torch.zeros(len(ids), dtype=torch.bool)

    def raw(self, row: int) -> Tensor:
        """The image as the reader takes it, uint8 [channels, height, width]."""
        return self.pixels[torch.tensor([row])][0]

    def show(self, row: int) -> NDArray[np.uint8]:
        """The image as it is, uint8 [height, width] or [height, width, 3]."""
        image: NDArray[np.uint8] = self.raw(row).numpy()
        return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
