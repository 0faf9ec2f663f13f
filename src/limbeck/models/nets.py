"""Small networks for bundled recipes, written to be read. Each keeps its ``settings``: what builds it again."""

from itertools import pairwise
from math import ceil
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.models.conv import Conv
from limbeck.models.light import InvertedCnn, ShuffleCnn
from limbeck.models.mixer import MlpMixer


class Mlp(nn.Module):
    """Linear layers with ReLU between them: [B, ...] flattened to [B, inputs], then logits [B, classes]."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], dropout: float, classes: int) -> None:
        super().__init__()
        self.settings = {"inputs": inputs, "hidden": list(hidden), "dropout": dropout, "classes": classes}
        sizes = (inputs, *hidden)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
                for before, after in pairwise(sizes)
            )
        )
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.blocks(x.flatten(1)))  # type: ignore[no-any-return]

    def larger(self, wider: float, deeper: int) -> "Mlp":
        """One with so many times the units and so many layers more at the end, which change nothing: what comes there is not
        negative, and ReLU leaves that.
        """
        settings: Any = self.settings
        hidden = tuple(ceil(wider * one) for one in settings["hidden"])
        net = Mlp(settings["inputs"], hidden + hidden[-1:] * deeper, settings["dropout"], settings["classes"])
        for block in list(net.blocks)[len(hidden) :]:
            nn.init.eye_(block[0].weight)  # type: ignore[index]
            nn.init.zeros_(block[0].bias)  # type: ignore[index]
        return net


class SmallCnn(nn.Module):
    """3x3 convolutions, each halving the image and doubling the channels, then the mean over what is left.

    [B, channels, height, width], any height and width, to [B, classes].
    """

    def __init__(self, channels: int, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.settings = {"channels": channels, "width": width, "blocks": blocks, "classes": classes}
        sizes = (channels, *(width * 2**index for index in range(blocks)))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    Conv(before, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.MaxPool2d(2, ceil_mode=True),
                    nn.ReLU(),  # of the largest is the largest of all, on a quarter of the numbers
                )
                for before, after in pairwise(sizes)
            )
        )
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.blocks(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def larger(self, wider: float, deeper: int) -> "SmallCnn":
        """One with so many times the channels.

        Raises:
            LimbeckError: it is to be deeper.
        """
        if deeper:
            raise LimbeckError(
                "A small-cnn cannot be made deeper and answer the same: each of its layers halves the image. Make it 'wider', or "
                "take a small-resnet as the teacher."
            )
        settings = {**self.settings, "width": ceil(wider * self.settings["width"])}
        return SmallCnn(**settings)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = Conv(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(Conv(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] to [B, after, H / stride, W / stride], rounded up."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class SmallResnet(nn.Module):
    """Stages of residual blocks, each stage after the first at half the size and twice the channels.

    [B, channels, height, width], any height and width, to [B, classes].
    """

    def __init__(self, channels: int, width: int, depth: int, stages: int, classes: int) -> None:
        super().__init__()
        self.settings = {"channels": channels, "width": width, "depth": depth, "stages": stages, "classes": classes}
        self.stem = nn.Sequential(Conv(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        built = []
        before = width
        for stage in range(stages):
            after = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            blocks = []
            for stride in strides:
                blocks.append(ResidualBlock(before, after, stride))
                before = after
            built.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(built)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def larger(self, wider: float, deeper: int) -> "SmallResnet":
        """One with so many times the channels and so many blocks more at the end of each stage, which change nothing: beside the
        shortcut they add zero, and what comes there is not negative.
        """
        depth = self.settings["depth"]
        settings = {**self.settings, "width": ceil(wider * self.settings["width"]), "depth": depth + deeper}
        net = SmallResnet(**settings)
        for stage in net.stages:
            for block in list(stage)[depth:]:  # type: ignore[call-overload]
                nn.init.zeros_(block.norm2.weight)
        return net


NETS: dict[str, type[nn.Module]] = {
    "mlp": Mlp,
    "small-cnn": SmallCnn,
    "small-resnet": SmallResnet,
    "mlp-mixer": MlpMixer,
    "inverted-cnn": InvertedCnn,
    "shuffle-cnn": ShuffleCnn,
}


def again(name: str, settings: dict[str, Any]) -> nn.Module:
    """The network of this name and these ``settings``, with weights from the global random state."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return NETS[name](**values)
