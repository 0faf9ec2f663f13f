"""Augmentation as pure functions of (id, view): view 0 is the row as it is."""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from limbeck.config import Config
from limbeck.data.draw import normals, uniforms

# What a random number is for, and 4 and 5 in mixup; a new use takes a new number, so that old ones keep their draws.
_GEOMETRY, _NOISE, _ERASE = range(1, 4)


class Augment(Config):
    """How views above 0 differ from the image as it is. What enters an image from outside is black."""

    shift: int = Field(default=0, ge=0)
    """Moves by up to so many whole pixels, each way."""
    flip: bool = False
    """Mirrors left and right, every second view."""
    rotate: float = Field(default=0.0, ge=0, le=180)
    """Turns by up to so many degrees, either way."""
    scale: float = Field(default=0.0, ge=0, lt=1)
    """Sizes between 1 - scale and 1 + scale."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the noise on each pixel, where black is 0 and white is 1."""
    erase: float = Field(default=0.0, ge=0, lt=1)
    """Blackens a rectangle whose sides are this share of the image's (cutout)."""

    @property
    def empty(self) -> bool:
        """Whether every view is the image as it is."""
        return self == Augment()

    def apply(self, images: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        """The images under their views, float32 [B, C, H, W] in [0, 1].

        ``images``: [B, C, H, W], uint8 or floating point in [0, 1]. ``ids``, ``views``: int64 [B]. No row depends on
        another. Rows under view 0 are untouched.
        """
        plain = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if self.empty or not bool((views > 0).any()):
            return plain
        seen = self._move(plain, ids, views) if self.shift or self.flip or self.rotate or self.scale else plain
        if self.noise:
            noise = normals(_NOISE, ids, views, seen[0].numel()).view_as(seen)
            seen = (seen + self.noise * noise).clamp(0, 1)
        if self.erase:
            seen = seen * self._kept(ids, views, *seen.shape[2:])
        return torch.where((views > 0).view(-1, 1, 1, 1), seen, plain)

    def _move(self, images: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        height, width = images.shape[2:]
        draw = uniforms(_GEOMETRY, ids, views, 5)
        angle = np.deg2rad(self.rotate) * (2 * draw[:, 0] - 1)
        size = 1 + self.scale * (2 * draw[:, 1] - 1)
        right, down = np.floor(draw[:, 2:4] * (2 * self.shift + 1)).T - self.shift
        mirror = np.where(self.flip & (draw[:, 4] < 0.5), -1.0, 1.0)
        cosine, sine = np.cos(angle) / size, np.sin(angle) / size
        # Where each new pixel comes from, in units of half an image. Sums and products only: matmul's bits depend on B.
        across = (mirror * cosine, -mirror * sine * height / width, -2 * mirror * right / width)
        along = (sine * width / height, cosine, -2 * down / height)
        a, b, c, d, e, f = (torch.from_numpy(number).float().view(-1, 1, 1) for number in (*across, *along))
        x = ((2 * torch.arange(width) + 1) / width - 1).view(1, 1, -1)
        y = ((2 * torch.arange(height) + 1) / height - 1).view(1, -1, 1)
        grid = torch.stack((x * a + y * b + c, x * d + y * e + f), dim=-1)
        exact = not self.rotate and not self.scale  # whole pixels need no interpolation
        moved: Tensor = F.grid_sample(images, grid, mode="nearest" if exact else "bilinear", align_corners=False)
        return moved

    def _kept(self, ids: Tensor, views: Tensor, height: int, width: int) -> Tensor:
        draw = torch.from_numpy(uniforms(_ERASE, ids, views, 2))
        outside = []
        for place, length in zip(draw.T, (height, width), strict=True):
            side = max(1, round(self.erase * length))
            start = (place * (length - side + 1)).floor().view(-1, 1)
            pixel = torch.arange(length).view(1, -1)
            outside.append((pixel < start) | (pixel >= start + side))
        kept: Tensor = outside[0][:, None, :, None] | outside[1][:, None, None, :]
        return kept.float()
