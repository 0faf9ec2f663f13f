"""Small networks that stand between a student's feature and the teacher's."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def pointwise(rank: int, before: int, after: int, bias: bool = True) -> nn.Module:
    """A linear map of the features at every position: 1 x 1 for maps (rank 4), else over the last axis."""
    return nn.Conv2d(before, after, 1, bias=bias) if rank == 4 else nn.Linear(before, after, bias=bias)


class GaussianHead(nn.Module):
    """The mean of the teacher's feature given the student's, and a variance for each channel (VID, Ahn et al. 2019).

    Three pointwise maps with ReLU between; the variance is softplus(raw) + 1e-5, 5 at first.
    """

    def __init__(self, rank: int, before: int, after: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            pointwise(rank, before, after, bias=False),
            nn.ReLU(),
            pointwise(rank, after, after, bias=False),
            nn.ReLU(),
            pointwise(rank, after, after, bias=False),
        )
        self.raw = nn.Parameter(torch.full((after,), math.log(math.expm1(5.0))))

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The mean in the shape of the teacher's feature, and the variance [C]."""
        return self.mean(feature), F.softplus(self.raw) + 1e-5


class Generator(nn.Module):
    """What makes a whole feature of a masked one (MGD, Yang et al. 2022): two 3 x 3 maps with ReLU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, feature: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        whole: Tensor = self.blocks(feature)
        return whole


class Bottleneck(nn.Module):
    """SimKD's projector (Chen et al. 2022): 1 x 1, 3 x 3, 1 x 1 through half the teacher's channels, with ReLU.

    Its batch normalisation is left out: what an example costs must not depend on the others.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        half = max(8, after // 2)  # a ReLU over one or two channels may never open
        self.blocks = nn.Sequential(
            nn.Conv2d(before, half, 1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, after, 1),
        )

    def forward(self, feature: Tensor) -> Tensor:
        """[B, before, H, W] to [B, after, H, W]."""
        projected: Tensor = self.blocks(feature)
        return projected


class Fusion(nn.Module):
    """ReviewKD's fusion of the student's levels, from the deepest up (Chen et al. 2021, arXiv:2104.09044).

    Each level is brought to ``middle`` channels and mixed with what came from the deeper ones by two attention maps; a 3 x
    3 map then gives the teacher's channels. Without the paper's batch normalisation: what an example costs must not
    depend on the others.

    Args:
        before: channels of the student's levels, from shallow to deep.
        after: channels of the teacher's levels, likewise.
        middle: channels of what is passed on.
    """

    def __init__(self, before: list[int], after: list[int], middle: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Conv2d(channels, middle, 1) for channels in before)
        self.attend = nn.ModuleList(nn.Conv2d(2 * middle, 2, 1) for _ in before[:-1])
        self.outer = nn.ModuleList(nn.Conv2d(middle, channels, 3, padding=1) for channels in after)

    def forward(self, levels: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
        """The fused levels in the teacher's shapes, from shallow to deep; ``sizes``: the teacher's (H, W)."""
        fused: list[Tensor] = []
        carried: Tensor | None = None
        for index in reversed(range(len(levels))):
            value = self.inner[index](levels[index])
            if carried is not None:
                carried = F.interpolate(carried, value.shape[2:], mode="nearest")
                shares = torch.sigmoid(self.attend[index](torch.cat([value, carried], 1)))
                value = value * shares[:, :1] + carried * shares[:, 1:]
            carried = value
            at = value if value.shape[2:] == sizes[index] else F.interpolate(value, sizes[index], mode="nearest")
            fused.insert(0, self.outer[index](at))
        return fused
