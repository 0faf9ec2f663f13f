"""A student made out of its teacher: fewer layers, narrower ones, smaller embeddings, fewer tokens."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck.config import Config
from limbeck.data.tokenizers import TASK
from limbeck.errors import LimbeckError
from limbeck.models.depth import Choose, depth, important, stack_path, take_layers, which
from limbeck.models.donor import copied, donor_of
from limbeck.models.factorised import factorise
from limbeck.models.influence import influence
from limbeck.models.narrow import narrow
from limbeck.models.pooled import first_texts
from limbeck.models.spec import BuildContext, Integers, Spec
from limbeck.models.vocabulary import cut_vocabulary

Positive = Annotated[int, Field(gt=0)]


class Stacks(Config):
    """Layers of a model with encoder and decoder: how many of each, or which, counted from 0; all of one that is left out."""

    encoder: Positive | Annotated[Integers, Field(min_length=1)] | None = None
    """Those that read a text."""
    decoder: Positive | Annotated[Integers, Field(min_length=1)] | None = None
    """Those that tell another, which take most of the time (Shleifer and Rush 2020, arXiv:2010.13002)."""

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if self.encoder is None and self.decoder is None:
            raise ValueError("say how many layers of the 'encoder', the 'decoder' or both are kept")
        return self


class Shrunk(Spec):
    """The trained teacher, made smaller; what is left out here is as it has it, weights included.

    ``layers`` is for any model with a list of layers, everything else for transformers models.
    """

    name: Literal["shrunk"] = "shrunk"
    layers: Positive | Annotated[Integers, Field(min_length=1)] | Stacks | None = None
    """How many of the teacher's layers, or which, counted from 0, in this order; all if left out. Of a model with encoder and
    decoder ``{decoder: 3}``, or ``{encoder: 6, decoder: 3}``."""
    choose: Choose = "uniform"
    """Which, for a number: ``uniform`` (evenly spaced, with the first and the last), the ``last`` ones, the ``first``, or the
    ``important`` ones, which change most what goes through them on some of the training data (ShortGPT, Men et al. 2024)."""
    at: str | None = None
    """Where its layers are, such as ``bert.encoder.layer``; the longest list of equal layers if left out."""
    hidden: Positive | None = None
    """The size of a token's vector: the most important channels are kept (weight subcloning, Samragh et al. 2023)."""
    heads: Positive | None = None
    """Attention heads a layer, kept whole: ``hidden`` divided by ``heads`` stays as it is."""
    intermediate: Positive | None = None
    """Neurons of each feed-forward part."""
    embedding_rank: Positive | None = None
    """The rank of the token embeddings, as a product of two matrices (as in ALBERT, Lan et al. 2019)."""
    vocabulary: Literal["all", "task"] = "all"
    """The teacher's tokens, or only those that the training texts use; the tokenizer is reduced to them."""

    @model_validator(mode="after")
    def _settings_have_a_meaning(self) -> Self:
        counts = (self.layers.encoder, self.layers.decoder) if isinstance(self.layers, Stacks) else (self.layers,)
        if self.choose != "uniform" and not any(isinstance(one, int) for one in counts):
            raise ValueError(f"'choose: {self.choose}' says which layers when 'layers' is a number")
        if self.at is not None and self.layers is None:
            raise ValueError("'at' says where the 'layers' are, and none are chosen")
        if self.at is not None and isinstance(self.layers, Stacks):
            raise ValueError("'at' says where the 'layers' are, as 'encoder' and 'decoder' do: leave it out")
        return self

    @property
    def tokenizer(self) -> str | None:
        """The teacher's, or what becomes of it."""
        return TASK if self.vocabulary == "task" else None

    def create(self, context: BuildContext) -> nn.Module:
        """A copy of `BuildContext.donor`, made smaller.

        Raises:
            LimbeckError: there is no donor, it reads other tokens, or it cannot be made so small.
        """
        module, sample = copied(donor_of(context, self.name)).eval(), first_texts(context.sample)
        if self.vocabulary == "task":
            module = cut_vocabulary(module, _tokens(context), sample)
        elif context.donor_tokens is not None:
            raise LimbeckError(
                "The student is made out of the teacher, but reads other tokens: set its 'vocabulary: task' if they are some "
                "of the teacher's, or leave out 'data.tokenizer'."
            )
        chosen = self._chosen(module, sample)  # of a model that still works
        if self.hidden or self.heads or self.intermediate:
            module = narrow(module, sample, self.hidden, self.heads, self.intermediate)
        for path, layers in chosen:
            module = take_layers(module, layers, path)
        if self.embedding_rank is not None:
            module = factorise(module, self.embedding_rank)
        return module

    def _chosen(self, module: nn.Module, sample: Mapping[str, Tensor]) -> list[tuple[str | None, tuple[int, ...]]]:
        """Where layers are taken, and which."""
        asked: list[tuple[str | None, int | tuple[int, ...]]]
        if isinstance(self.layers, Stacks):
            sides = {"encoder": self.layers.encoder, "decoder": self.layers.decoder}
            asked = [(stack_path(module, side), one) for side, one in sides.items() if one is not None]
        else:
            asked = [] if self.layers is None else [(self.at, self.layers)]
        return [(path, self._which(one, path, module, sample)) for path, one in asked]

    def _which(
        self, layers: int | tuple[int, ...], at: str | None, module: nn.Module, sample: Mapping[str, Tensor]
    ) -> tuple[int, ...]:
        if not isinstance(layers, int):
            return layers
        if self.choose == "important":
            return important(layers, influence(module, sample, at))
        return which(layers, depth(module, at), self.choose)


def _tokens(context: BuildContext) -> Tensor:
    """The donor's token for each of the student's."""
    if context.donor_tokens is None:
        raise LimbeckError(
            "'vocabulary: task' needs texts and a tokenizer that the training texts leave some of, but student and teacher "
            "read the same columns here: leave it out."
        )
    if strange := int((context.donor_tokens < 0).sum()):
        raise LimbeckError(
            f"'vocabulary: task' takes the student's tokens from the teacher's, but {strange} of "
            f"{len(context.donor_tokens)} are none of them: leave out 'data.tokenizer'."
        )
    return context.donor_tokens
