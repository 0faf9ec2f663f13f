"""The specs of small networks that cut an image into patches."""

from math import ceil
from typing import Literal, Self

from pydantic import Field
from torch import Tensor, nn

from limbeck.data.tokenizers import library
from limbeck.errors import LimbeckError
from limbeck.models import mixer
from limbeck.models.huggingface import labels
from limbeck.models.small import Positive, only_image
from limbeck.models.spec import BuildContext, Spec


class MlpMixer(Spec):
    """Patches mixed by linear layers alone (Tolstikhin et al. 2021, arXiv:2105.01601); some 30 thousand parameters."""

    name: Literal["mlp-mixer"] = "mlp-mixer"
    patch: Positive = 4
    """The side of a patch in pixels; it divides height and width."""
    layers: Positive = 3
    """Mixer layers."""
    hidden: Positive = 32
    """The size of a patch's vector."""
    across: Positive | None = None
    """The inner size of what mixes the patches; half of ``hidden`` if left out."""
    within: Positive | None = None
    """The inner size of what mixes a patch's channels; four times ``hidden`` if left out."""

    def widened(self, factor: float) -> Self:
        """See `Spec.widened`."""
        sizes = {"hidden": self.hidden, "across": self.across, "within": self.within}
        return self.model_copy(update={name: size and ceil(factor * size) for name, size in sizes.items()})

    def create(self, context: BuildContext) -> nn.Module:
        """A `mixer.MlpMixer` over the one image column."""
        _, channels, height, width = _cut(context, self.name, self.patch).shape
        across, within = self.across or max(1, self.hidden // 2), self.within or 4 * self.hidden
        return mixer.MlpMixer(
            channels, height, width, self.patch, self.layers, self.hidden, across, within, context.classes
        )


class Vit(Spec):
    """A vision transformer with random weights: transformers' `ViTForImageClassification`.

    Dosovitskiy et al. 2021, arXiv:2010.11929; some 100 thousand parameters.
    """

    name: Literal["vit"] = "vit"
    patch: Positive = 4
    """The side of a patch in pixels; it divides height and width."""
    layers: Positive = 2
    """Encoder layers."""
    hidden: Positive = 64
    """The size of a patch's vector."""
    heads: Positive = 4
    """Attention heads; they divide ``hidden``."""
    intermediate: Positive | None = None
    """The inner size of the feed-forward parts; four times ``hidden`` if left out."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout behind the position embeddings and the feed-forward parts; attention itself has none, as in the paper."""

    def widened(self, factor: float) -> Self:
        """See `Spec.widened`; the number of heads stays."""
        inner = self.intermediate and ceil(factor * self.intermediate)
        return self.model_copy(
            update={"hidden": self.heads * ceil(factor * self.hidden / self.heads), "intermediate": inner}
        )

    def create(self, context: BuildContext) -> nn.Module:
        """A ViT classifier over the one image column."""
        _, channels, height, width = _cut(context, self.name, self.patch).shape
        if self.hidden % self.heads:
            raise LimbeckError(f"{self.name}: hidden ({self.hidden}) is not a multiple of heads ({self.heads}).")
        transformers = library()
        config = transformers.ViTConfig(
            image_size=height if height == width else [height, width],
            patch_size=self.patch,
            num_channels=channels,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate or 4 * self.hidden,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=0.0,
            **labels(context.names),
        )
        module: nn.Module = transformers.ViTForImageClassification(config)
        return module


def _cut(context: BuildContext, name: str, patch: int) -> Tensor:
    """The image column, if patches of this side cover it."""
    column = only_image(context, name)
    height, width = column.shape[2:]
    if height % patch or width % patch:
        raise LimbeckError(
            f"The model {name!r} cuts images into patches of {patch} x {patch} pixels, which do not cover "
            f"{height} x {width}: set 'patch' to a number that divides both."
        )
    return column
