"""The specs of three small networks that err differently, for several teachers of one student. Images of 28 to 64 pixels."""

from math import ceil
from typing import ClassVar, Literal, Self

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import light
from limbeck.models.small import Positive, only_image
from limbeck.models.spec import BuildContext, Spec


class Inverted(Spec):
    """What networks of inverted residuals have in common."""

    squeezed: ClassVar[bool]

    width: Positive = 12
    """Channels of the first stage; each further stage doubles them."""
    depth: Positive = 2
    """Blocks a stage."""
    stages: Positive = 3
    """Stages, the first at half the image's size; each after it halves it again."""
    expansion: Positive = 4
    """How many times as many channels a block has within."""

    def widened(self, factor: float) -> Self:
        """See `Spec.widened`."""
        return self.model_copy(update={"width": ceil(factor * self.width)})

    def create(self, context: BuildContext) -> nn.Module:
        """A `light.InvertedCnn` over the one image column."""
        channels = only_image(context, self.plain()["name"]).shape[1]
        sizes = (channels, self.width, self.depth, self.stages, self.expansion)
        return light.InvertedCnn(*sizes, self.squeezed, context.classes)


class MobileCnn(Inverted):
    """Inverted residuals with ReLU6 (MobileNetV2: Sandler et al. 2018, arXiv:1801.04381); some 45 thousand parameters."""

    squeezed: ClassVar[bool] = False

    name: Literal["mobile-cnn"] = "mobile-cnn"


class EfficientCnn(Inverted):
    """Inverted residuals with squeeze and excitation, and SiLU (EfficientNet: Tan & Le 2019, arXiv:1905.11946); some 50 thousand
    parameters.
    """

    squeezed: ClassVar[bool] = True

    name: Literal["efficient-cnn"] = "efficient-cnn"


class ShuffleCnn(Spec):
    """Convolutions within groups of channels, shuffled in between (ShuffleNet: Zhang et al. 2018, arXiv:1707.01083); some 20
    thousand parameters.
    """

    name: Literal["shuffle-cnn"] = "shuffle-cnn"
    width: Positive = 24
    """Channels of the first stage, a multiple of ``groups``; each further stage doubles them."""
    depth: Positive = 2
    """Units a stage."""
    stages: Positive = 3
    """Stages, the first at half the image's size; each after it halves it again."""
    groups: Positive = 2
    """Groups of channels, each of which a convolution of one pixel sees by itself."""

    def widened(self, factor: float) -> Self:
        """See `Spec.widened`; the number of groups stays."""
        return self.model_copy(update={"width": self.groups * ceil(factor * self.width / self.groups)})

    def create(self, context: BuildContext) -> nn.Module:
        """A `light.ShuffleCnn` over the one image column."""
        if self.width % self.groups:
            raise LimbeckError(f"{self.name}: width ({self.width}) is not a multiple of groups ({self.groups}).")
        channels = only_image(context, self.name).shape[1]
        return light.ShuffleCnn(channels, self.width, self.depth, self.stages, self.groups, context.classes)
