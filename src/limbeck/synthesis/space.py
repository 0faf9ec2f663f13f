"""`InputSpace`: what a model for images reads, between black and white."""

from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from limbeck.data.augment import Augment
from limbeck.data.batch import NO_LABEL
from limbeck.data.draw import normals
from limbeck.data.examples import Examples
from limbeck.data.images import ImageReader, ImageTable
from limbeck.data.table import Table
from limbeck.errors import LimbeckError

_NOISE = 23  # salt


@dataclass(frozen=True)
class InputSpace:
    """Pictures of one size in a model's own numbers, float32 [B, C, H, W].

    ``reader``: says what black and white become. ``augment``: how views of a made picture vary.
    """

    reader: ImageReader
    augment: Augment

    @classmethod
    def of(cls, examples: Examples, who: str) -> Self:
        """Where the inputs of these examples are from. ``who`` asks.

        Raises:
            LimbeckError: they are no images of which it is known what is black and what is white.
        """
        table: Any = examples.table
        if examples.task.name != "classes" or getattr(table.reader, "name", "") != "images":
            raise LimbeckError(
                f"{who} makes pictures for a classifier, and these examples are no images of classes that are read by their "
                "pixels: give a source of images (such as fashion-mnist, idx or image-folder), or choose another regime."
            )
        return cls(table.reader, table.augment)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.reader.channels, self.reader.height, self.reader.width

    def ends(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Black and white, each [1, C, 1, 1]."""
        low, high = (self.reader.normalised(torch.full((1, self.shape[0], 1, 1), one)) for one in (0.0, 1.0))
        return low.to(device), high.to(device)

    def noise(self, ids: Tensor, salt: int = 0) -> Tensor:
        """Noise by number alone, of mean 0 and variance 1, cut off at black and white; ``ids``: int64 [B]."""
        found = normals(_NOISE, ids, torch.full_like(ids, salt), torch.Size(self.shape).numel())
        return found.view(-1, *self.shape).clamp(*self.ends())

    def levels(self, pictures: Tensor) -> Tensor:
        """The same as a file has them, uint8 [B, C, H, W]: rounded to 256 levels."""
        low, high = self.ends(pictures.device)
        return ((pictures.detach() - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).cpu()

    def examples(self, levels: Tensor, like: Examples, labels: Tensor | None = None) -> Examples:
        """Examples of made pictures, uint8 [N, C, H, W], for the task of ``like``; without ``labels`` none has one."""
        count = len(levels)
        return replace(
            like,
            table=cast(Table, ImageTable(levels, self.reader, self.augment)),
            rows=torch.arange(count),
            labels=torch.full((count,), NO_LABEL) if labels is None else labels,
            supervised=torch.full((count,), labels is not None),
            domains=None,
        )
