"""A vector for a text: the mean of an encoder's tokens that count, or the first one's."""

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor, nn

from limbeck.data.tokens import PAIR
from limbeck.models.spec import BuildContext
from limbeck.signals.call import call

Pool = Literal["mean", "first"]
_COLUMNS: Final = ("input_ids", "attention_mask", "token_type_ids")


class Pooled(nn.Module):
    """An encoder of the transformers library that gives a vector for each text.

    The columns of a second text are called ``pair_input_ids`` and so on; the encoder runs once for each. A pooling layer of its
    own is taken out, as nothing reads it.
    """

    def __init__(self, encoder: nn.Module, pool: Pool = "mean") -> None:
        super().__init__()
        if isinstance(getattr(encoder, "pooler", None), nn.Module):
            encoder.pooler = None  # type: ignore[assignment]
        self.encoder = encoder
        self.pool = pool

    @property
    def config(self) -> Any:
        """The encoder's."""
        return self.encoder.config

    def get_input_embeddings(self) -> Any:
        """The encoder's table of tokens."""
        whole: Any = self.encoder
        return whole.get_input_embeddings()

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        """Puts another table of tokens into the encoder."""
        whole: Any = self.encoder
        whole.set_input_embeddings(embeddings)

    def by(self, config: Any) -> Self:
        """A new one of the encoder's class by another config."""
        kind: Any = type(self.encoder)
        return type(self)(kind(config), self.pool)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pair_input_ids: Tensor | None = None,
        pair_attention_mask: Tensor | None = None,
        pair_token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Columns int64 [B, L], of second texts [B, L'], to vectors [B, 2, d]; of single texts to [B, 1, d]."""
        sides = [(input_ids, attention_mask, token_type_ids)]
        if pair_input_ids is not None:
            sides.append((pair_input_ids, pair_attention_mask, pair_token_type_ids))
        return torch.stack([self._vector(*side) for side in sides], 1)

    def _vector(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Tensor:
        given = zip(_COLUMNS, (ids, mask, types), strict=True)
        tokens: Tensor = call(self.encoder, {name: value for name, value in given if value is not None})[0]
        if self.pool == "first":
            return tokens[:, 0]
        counts = (torch.ones_like(ids) if mask is None else mask).unsqueeze(-1).to(tokens.dtype)
        return (tokens * counts).sum(1) / counts.sum(1).clamp_min(1)


def fitted_for(module: nn.Module, context: BuildContext, pool: Pool = "mean") -> nn.Module:
    """The model of transformers as the task needs it: of vectors with pooling around it."""
    return Pooled(module, pool) if context.task.gives == "vectors" else module


def first_texts(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns without those of second texts: a model is looked into by one run."""
    return {name: value for name, value in columns.items() if not name.startswith(PAIR)}
