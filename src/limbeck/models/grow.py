"""A student that begins as its teacher and is larger: Net2Net (Chen, Goodfellow & Shlens 2016, arXiv:1511.05641)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck.config import Config
from limbeck.errors import LimbeckError
from limbeck.models.deepen import deepen
from limbeck.models.donor import copied, donor_of
from limbeck.models.pooled import first_texts
from limbeck.models.same import same
from limbeck.models.spec import BuildContext, Spec
from limbeck.models.weights import fill
from limbeck.models.widen import fitted, widen

Times = Annotated[float, Field(ge=1, le=64)]


class Grown(Spec):
    """The trained teacher, made larger; untrained it answers as the teacher does, which is tried when it is built.

    For the networks mlp, small-cnn and small-resnet, and for transformers models.
    """

    name: Literal["grown"] = "grown"
    wider: Times = 1.0
    """How many times as wide: units and channels, of a transformers model also heads and neurons; a whole number there."""
    feed_forward: Times = 1.0
    """How many times as many neurons in each feed-forward part of a transformers model, beside what ``wider`` gives."""
    deeper: Annotated[int, Field(ge=0, le=256)] = 0
    """How many layers more; of a small-resnet blocks in each stage, of an mlp hidden layers at its end. They begin as layers that
    change nothing."""
    at: str | None = None
    """Where a transformers model's layers are, such as ``bert.encoder.layer``; the longest list of equal layers if left out."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.wider == self.feed_forward == 1 and not self.deeper:
            raise ValueError("say how much: 'wider', 'feed-forward', 'deeper' or several of them")
        if self.at is not None and not self.deeper:
            raise ValueError("'at' says where the layers are, and none are added")
        return self

    def create(self, context: BuildContext) -> nn.Module:
        """A larger copy of `BuildContext.donor`.

        Raises:
            LimbeckError: there is no donor, it reads other tokens, or it cannot be made larger so that it answers the same.
        """
        donor, sample = copied(donor_of(context, self.name)).eval(), first_texts(context.sample)
        if context.donor_tokens is not None:
            raise LimbeckError("The student begins as the teacher, but reads other tokens: leave out 'data.tokenizer'.")
        larger: Any = getattr(donor, "larger", None)
        module = self._of_net(donor, larger) if larger else self._of_transformers(donor, sample)
        if not same(donor, module, sample):
            raise LimbeckError(
                f"{type(donor).__name__} cannot be grown so ({self._said}): on some of the training data the larger "
                "model does not answer as the teacher does."
            )
        return module

    def _of_net(self, donor: nn.Module, larger: Any) -> nn.Module:
        if self.feed_forward != 1 or self.at is not None:
            raise LimbeckError(
                f"'feed-forward' and 'at' are for transformers models: of {type(donor).__name__} leave them out."
            )
        module: nn.Module = larger(self.wider, self.deeper)
        module.to(dtype=next(donor.parameters()).dtype)
        own = module.state_dict()
        fill(
            module, {**own, **fitted(donor.state_dict(), {name: one.shape for name, one in own.items()})}, "the teacher"
        )
        return module

    def _of_transformers(self, donor: nn.Module, sample: Mapping[str, Tensor]) -> nn.Module:
        if not hasattr(getattr(donor, "config", None), "num_hidden_layers"):
            raise LimbeckError(
                f"{type(donor).__name__} cannot be grown: that is for mlp, small-cnn, small-resnet and transformers models."
            )
        try:
            if self.wider != 1 or self.feed_forward != 1:
                donor = widen(donor, sample, self.wider, self.feed_forward).eval()
            return deepen(donor, sample, self.deeper, self.at) if self.deeper else donor
        except LimbeckError as error:
            raise LimbeckError(f"The student cannot be grown so ({self._said}). {error}") from error

    @property
    def _said(self) -> str:
        own: Config = self
        return ", ".join(
            f"{name}: {value}" for name, value in own.plain().items() if name in ("wider", "feed-forward", "deeper")
        )
