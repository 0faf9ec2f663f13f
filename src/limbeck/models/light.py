"""Three small networks that see images in different ways, so that they err differently. Each keeps its ``settings``."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.models.conv import Conv

Block = Callable[[int, int, int], nn.Module]
"""Makes a block of so many channels before and after it, and this stride."""


def normed(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and BatchNorm."""
    conv = Conv(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


def staged(width: int, depth: int, stages: int, block: Block) -> tuple[nn.ModuleList, int]:
    """Stages of ``depth`` blocks, each after the first at half the size and twice the channels; and the channels at the end."""
    built, before = [], width
    for stage in range(stages):
        after, blocks = width * 2**stage, []
        for stride in [1 if stage == 0 else 2] + [1] * (depth - 1):
            blocks.append(block(before, after, stride))
            before = after
        built.append(nn.Sequential(*blocks))
    return nn.ModuleList(built), before


class Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al. 2018, arXiv:1709.01507): each channel times what the means of all of them say of it."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to the same."""
        return x * self.up(F.silu(self.down(x.mean(dim=(2, 3), keepdim=True)))).sigmoid()  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """More channels, a convolution of each by itself, and fewer again without an activation, around a shortcut where it fits.

    ``squeezed``: whether there is a `Squeeze` between, to a quarter of the channels before.
    """

    def __init__(
        self, before: int, after: int, stride: int, expansion: int, activation: type[nn.Module], squeezed: bool
    ) -> None:
        super().__init__()
        inner = expansion * before
        self.wider = nn.Sequential(*normed(before, inner, 1), activation())
        self.each = nn.Sequential(*normed(inner, inner, 3, stride, groups=inner), activation())
        self.squeeze: nn.Module = Squeeze(inner, max(1, before // 4)) if squeezed else nn.Identity()
        self.narrower = normed(inner, after, 1)
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] to [B, after, H / stride, W / stride], rounded up."""
        inner: Tensor = self.narrower(self.squeeze(self.each(self.wider(x))))
        return x + inner if self.residual else inner


class InvertedCnn(nn.Module):
    """Inverted residuals (Sandler et al. 2018, arXiv:1801.04381), each stage after the first at half the size.

    [B, channels, height, width], any height and width, to [B, classes]. With ``squeezed`` each block weighs its channels and
    activations are SiLU (as in Tan & Le 2019, arXiv:1905.11946); else they are ReLU6.
    """

    def __init__(
        self, channels: int, width: int, depth: int, stages: int, expansion: int, squeezed: bool, classes: int
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": channels,
            "width": width,
            "depth": depth,
            "stages": stages,
            "expansion": expansion,
            "squeezed": squeezed,
            "classes": classes,
        }
        activation = nn.SiLU if squeezed else nn.ReLU6

        def block(before: int, after: int, stride: int) -> nn.Module:
            return InvertedResidual(before, after, stride, expansion, activation, squeezed)

        self.stem = nn.Sequential(*normed(channels, width, 3, 2), activation())
        self.stages, last = staged(width, depth, stages, block)
        self.last = nn.Sequential(*normed(last, 2 * last, 1), activation())  # blocks end without an activation
        self.head = nn.Linear(2 * last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.last(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class ShuffleUnit(nn.Module):
    """Convolutions within groups of channels, which are shuffled in between, so that each group hears of all others.

    A unit with a stride keeps what it was given, halved by its mean, beside what it adds.
    """

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        self.groups, self.halved = groups, stride != 1 or before != after
        made = after - before if self.halved else after
        self.first = nn.Sequential(*normed(before, made, 1, groups=groups), nn.ReLU())
        self.each = normed(made, made, 3, stride, groups=made)
        self.second = normed(made, made, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] to [B, after, H / stride, W / stride], rounded up."""
        shuffled = self.first(x).unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        inner = self.second(self.each(shuffled))
        if not self.halved:
            return F.relu(x + inner)
        return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, padding=1), inner], 1))


class ShuffleCnn(nn.Module):
    """Grouped convolutions with a shuffle of the channels (Zhang et al. 2018, arXiv:1707.01083).

    [B, channels, height, width], any height and width, to [B, classes]; each stage after the first at half the size.
    """

    def __init__(self, channels: int, width: int, depth: int, stages: int, groups: int, classes: int) -> None:
        super().__init__()
        self.settings = {
            "channels": channels,
            "width": width,
            "depth": depth,
            "stages": stages,
            "groups": groups,
            "classes": classes,
        }
        self.stem = nn.Sequential(*normed(channels, width, 3, 2), nn.ReLU())
        self.stages, last = staged(
            width, depth, stages, lambda before, after, stride: ShuffleUnit(before, after, stride, groups)
        )
        self.head = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]
