"""Images as a teacher sees them: larger or smaller, in colour or grey, on a scale of its own."""

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.config import Config, Tuple
from limbeck.errors import LimbeckError

Normalised = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of each channel, where black is 0 and white is 1."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow
_Numbers = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Tuple]
_Sides = Annotated[tuple[int, int], Tuple]


def _absent(value: object) -> bool:
    return value is None


class Sees(Config):
    """Images as a model was trained on them. What is left out is as the student reads it."""

    size: Annotated[int | _Sides | None, Field(exclude_if=_absent)] = None
    """Side in pixels, or [height, width]; what the student sees is resized (bilinear, antialiased), so no detail is gained."""
    channels: Annotated[Literal[1, 3] | None, Field(exclude_if=_absent)] = None
    """1: grey, of colours by their brightness; 3: colours, of grey three times the same."""
    pixels: Literal["as-read", "0-1", "0-255"] = "as-read"
    """The scale: normalised as the student reads them, or with black at 0 and white at 1 or 255."""
    mean: Annotated[_Numbers | None, Field(exclude_if=_absent)] = None
    """What is subtracted from each channel, where black is 0 and white is 1; with ``std``, in place of ``pixels``."""
    std: Annotated[_Numbers | None, Field(exclude_if=_absent)] = None
    """What each channel is divided by thereafter."""

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        sides = (self.size,) if isinstance(self.size, int) else self.size or ()
        if any(side < 1 for side in sides):
            raise ValueError("a size has at least one pixel on each side")
        if (self.mean is None) != (self.std is None):
            raise ValueError("'mean' and 'std' belong together: give both, or neither")
        if self.mean is not None and self.std is not None:
            if self.pixels != "as-read":
                raise ValueError(f"'mean' and 'std' are a scale of their own: leave 'pixels: {self.pixels}' out")
            if not len(self.mean) == len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
                raise ValueError("'mean' and 'std' need a number for each channel, 1 or 3, those of 'std' above 0")
            if self.channels not in (None, len(self.mean)):
                raise ValueError(
                    f"'mean' and 'std' are of {len(self.mean)} channels, and 'channels' says {self.channels}"
                )
        return self

    @property
    def otherwise(self) -> dict[str, object]:
        """What is not as the student sees it."""
        told = {name: getattr(self, name) for name in Sees.model_fields}
        return {name: value for name, value in told.items() if value not in (None, "as-read")}

    def sight(self, normalised: Normalised | None) -> "Sight":
        """What turns the student's images into these. ``normalised``: as the student reads them.

        Raises:
            LimbeckError: the data holds no images, or their scale is not known.
        """
        if normalised is None:
            name, value = next(iter(self.otherwise.items()), ("sees", ""))
            told = f"{name}: {value}".rstrip(": ")
            raise LimbeckError(f"'{told}' is for images, and this data holds none: leave it out.")
        given, wanted = len(normalised[0]), self.channels or (len(self.mean) if self.mean else len(normalised[0]))
        if wanted < given and self.pixels == "as-read" and self.mean is None:
            raise LimbeckError(
                "The teacher sees grey and the data is in colour, so the data's scale, of three channels, is none for it: say on "
                "which it was trained, by 'pixels', or by 'mean' and 'std'."
            )
        return Sight(self, normalised, wanted)


class Sight(nn.Module):
    """Images [B, C, H, W] as the student's reader gives them, to those that a model sees; differentiable."""

    read_mean: Tensor
    read_std: Tensor
    own_mean: Tensor
    own_std: Tensor

    def __init__(self, sees: Sees, normalised: Normalised, channels: int) -> None:
        super().__init__()
        self.size = (sees.size, sees.size) if isinstance(sees.size, int) else sees.size
        self.given, self.channels, self.white = len(normalised[0]), channels, 255 if sees.pixels == "0-255" else 1
        own: Normalised = ((0.0,), (1.0,))
        if sees.mean is not None and sees.std is not None:
            own = sees.mean, sees.std
        elif sees.pixels == "as-read":
            own = normalised
        for name, (mean, std) in {"read": normalised, "own": own}.items():
            self.register_buffer(f"{name}_mean", torch.tensor(mean).view(1, -1, 1, 1))
            self.register_buffer(f"{name}_std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Of the type of ``images``."""
        seen = images.float() * self.read_std + self.read_mean
        if self.channels < self.given:
            seen = (seen * seen.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        elif self.channels > self.given:
            seen = seen.expand(-1, self.channels, -1, -1)
        if self.size is not None and tuple(seen.shape[-2:]) != self.size:
            seen = F.interpolate(seen, self.size, mode="bilinear", antialias=True, align_corners=False)
        seen = (seen - self.own_mean) / self.own_std
        return (self.white * seen).to(images.dtype)
