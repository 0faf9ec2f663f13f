"""A teacher that sees images otherwise than its student."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data.images import PIXELS
from limbeck.data.sight import Sees, Sight
from limbeck.data.task import Task
from limbeck.models.spec import BuildContext, Spec


class Sighted(nn.Module):
    """A model behind its `Sight`. Signals go by the names that modules have in the model itself."""

    def __init__(self, model: nn.Module, sight: Sight) -> None:
        super().__init__()
        self.model, self.sight = model, sight

    def get_base_model(self) -> nn.Module:
        """See `limbeck.signals.capture.named`."""
        return self.model

    def forward(self, pixel_values: Tensor, **others: Any) -> Any:
        """What the model says of the images as it sees them."""
        return self.model(self.sight(pixel_values), **others)


class Seeing(Spec):
    """A model that sees images otherwise; made of what a recipe says of a teacher, see `Sees`."""

    name: Literal["seeing"] = "seeing"
    of: Any
    sees: Sees

    @property
    def called(self) -> str:
        """That of the model."""
        return str(self.of.called)

    @property
    def tokenizer(self) -> str | None:
        """That of the model."""
        found: str | None = self.of.tokenizer
        return found

    @property
    def known(self) -> bool:
        """Whether the model is."""
        return bool(self.of.known)

    def finished(self, task: Task) -> Spec:
        """The same, its model finished."""
        return self.model_copy(update={"of": self.of.finished(task)})

    def create(self, context: BuildContext) -> nn.Module:
        """The model, made for the images that it sees."""
        sight = self.sees.sight(context.normalised)
        images = context.only_column(f"A teacher that sees images otherwise, {self.called!r},")
        with torch.no_grad():
            seen = sight(images)
        return Sighted(self.of.build(replace(context, sample={PIXELS: seen})), sight)
