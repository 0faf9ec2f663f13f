"""The specs of the bundled small networks."""

from math import ceil
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor, nn

from limbeck.data.tokenizers import library
from limbeck.errors import LimbeckError
from limbeck.models import nets
from limbeck.models.huggingface import auto_class, head_of
from limbeck.models.pooled import fitted_for
from limbeck.models.spec import BuildContext, Spec

Positive = Annotated[int, Field(gt=0)]


class Mlp(Spec):
    """Linear layers with ReLU between them, over the flattened input."""

    name: Literal["mlp"] = "mlp"
    hidden: Positive | Annotated[tuple[Positive, ...], Field(min_length=1)] = (128,)
    """Units of each hidden layer; a single number for one layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """The share of hidden units that rest in each training step."""

    def widened(self, factor: float) -> Self:
        """See `Spec.widened`."""
        hidden = (self.hidden,) if isinstance(self.hidden, int) else self.hidden
        return self.model_copy(update={"hidden": tuple(ceil(factor * one) for one in hidden)})

    def create(self, context: BuildContext) -> nn.Module:
        """An `nets.Mlp` over the one input column."""
        hidden = (self.hidden,) if isinstance(self.hidden, int) else self.hidden
        inputs = context.only_column("The model 'mlp'")[0].numel()
        return nets.Mlp(inputs, hidden, self.dropout, context.classes)


class SmallCnn(Spec):
    """A few convolutions; some thousand parameters."""

    name: Literal["small-cnn"] = "small-cnn"
    width: Positive = 8
    """Channels of the first block; each further block doubles them."""
    blocks: Positive = 3
    """Convolutions, each followed by pooling to half the size."""

    def widened(self, factor: float) -> Self:
        """See `Spec.widened`."""
        return self.model_copy(update={"width": ceil(factor * self.width)})

    def create(self, context: BuildContext) -> nn.Module:
        """A `nets.SmallCnn` over the one image column."""
        return nets.SmallCnn(only_image(context, self.name).shape[1], self.width, self.blocks, context.classes)


class SmallResnet(Spec):
    """A residual network for images of 28 to 64 pixels."""

    name: Literal["small-resnet"] = "small-resnet"
    width: Positive = 16
    """Channels of the first stage; each further stage doubles them."""
    depth: Positive = 1
    """Residual blocks a stage."""
    stages: Positive = 3
    """Stages; each after the first halves the size."""

    def widened(self, factor: float) -> Self:
        """See `Spec.widened`."""
        return self.model_copy(update={"width": ceil(factor * self.width)})

    def create(self, context: BuildContext) -> nn.Module:
        """A `nets.SmallResnet` over the one image column."""
        channels = only_image(context, self.name).shape[1]
        return nets.SmallResnet(channels, self.width, self.depth, self.stages, context.classes)


class SmallTransformer(Spec):
    """A BERT of any size with random weights, with transformers' head for the task."""

    name: Literal["small-transformer"] = "small-transformer"
    layers: Positive = 2
    """Encoder layers."""
    hidden: Positive = 128
    """The size of a token's vector."""
    heads: Positive = 2
    """Attention heads; they divide ``hidden``."""
    intermediate: Positive | None = None
    """The inner size of the feed-forward parts; four times ``hidden`` if left out."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout everywhere, attention included."""
    positions: Positive = 512
    """The longest text, in tokens."""
    vocabulary: Positive | None = None
    """Tokens of the vocabulary; the tokenizer's if left out."""

    def widened(self, factor: float) -> Self:
        """See `Spec.widened`; the number of heads stays."""
        inner = self.intermediate and ceil(factor * self.intermediate)
        return self.model_copy(
            update={"hidden": self.heads * ceil(factor * self.hidden / self.heads), "intermediate": inner}
        )

    def create(self, context: BuildContext) -> nn.Module:
        """A BERT over ``input_ids``."""
        if "input_ids" not in context.sample:
            raise LimbeckError(f"The model {self.name!r} reads text, but the data has {sorted(context.sample)}.")
        if context.task.reads == "sources":
            raise LimbeckError(
                f"The model {self.name!r} is an encoder without a decoder, and cannot turn a text into another: choose a model "
                "with both, such as {name: from-config, model-type: bart}."
            )
        vocabulary = self.vocabulary or context.vocabulary
        if vocabulary is None:
            raise LimbeckError(f"The model {self.name!r} needs 'vocabulary', the number of the tokenizer's tokens.")
        if self.hidden % self.heads:
            raise LimbeckError(f"{self.name}: hidden ({self.hidden}) is not a multiple of heads ({self.heads}).")
        largest, length = int(context.sample["input_ids"].max()), context.sample["input_ids"].shape[1]
        if largest >= vocabulary or length > self.positions:
            raise LimbeckError(
                f"The model {self.name!r} has {vocabulary} tokens and {self.positions} positions, but the data has "
                f"a token {largest} and texts of {length} tokens: raise 'vocabulary' or 'positions'."
            )
        transformers = library()
        config = transformers.BertConfig(
            vocab_size=vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate or 4 * self.hidden,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            max_position_embeddings=self.positions,
            pad_token_id=None,  # else token 0 would get no gradient, whether it is padding or not
            **head_of(context),
        )
        return fitted_for(auto_class(context).from_config(config), context)


def only_image(context: BuildContext, name: str) -> Tensor:
    """The one input column, if it holds images; ``name`` is the model's.

    Raises:
        LimbeckError: it does not, or there are several.
    """
    column = context.only_column(f"The model {name!r}")
    if column.ndim != 4:
        raise LimbeckError(
            f"The model {name!r} reads images [batch, channels, height, width], but the data has the shape "
            f"{list(column.shape)}: choose the model 'mlp', or read the data as images."
        )
    return column
