"""Embeddings as a product of two smaller matrices (as in ALBERT, Lan et al. 2019, arXiv:1909.11942)."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.remade import config_of, remade


class FactorisedEmbedding(nn.Module):
    """Token ids [...] to vectors [..., width] through vectors of ``rank``: (V + width) x rank numbers, not V x width."""

    def __init__(self, tokens: int, width: int, rank: int, padding: int | None = None) -> None:
        super().__init__()
        self.tokens = nn.Embedding(tokens, rank, padding_idx=padding)
        self.up = nn.Linear(rank, width, bias=False)

    @classmethod
    def of(cls, table: nn.Embedding, rank: int) -> Self:
        """The nearest of this rank in the Frobenius norm: U sqrt(S) and sqrt(S) V^T of the table's largest singular values.

        The relative error is sqrt(sum of the squares of the other singular values / sum of all squares).
        """
        whole = table.weight.detach().cpu().double()
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        root = values[:rank].sqrt()
        made = cls(table.num_embeddings, table.embedding_dim, rank, table.padding_idx)
        with torch.no_grad():
            made.tokens.weight.copy_(left[:, :rank] * root)
            made.up.weight.copy_((root[:, None] * right[:rank]).T)
        return made.to(dtype=table.weight.dtype)

    @property
    def rank(self) -> int:
        """The size of the vectors in between."""
        return self.tokens.embedding_dim

    @property
    def weight(self) -> Tensor:
        """The table that it stands for, [V, width]."""
        return self.up(self.tokens.weight)  # type: ignore[no-any-return]

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [..., width] of ``ids`` [...]."""
        return self.up(self.tokens(ids))  # type: ignore[no-any-return]


def factorise(module: nn.Module, rank: int) -> nn.Module:
    """Puts a `FactorisedEmbedding` in the place of a transformers model's token embeddings; returns the module.

    Raises:
        LimbeckError: the model has no plain table of tokens, shares it with its output, or the rank saves nothing.
    """
    config_of(module, "'embedding-rank'")
    table = _table(module)
    if not isinstance(table, nn.Embedding):
        raise LimbeckError(
            f"'embedding-rank' factorises a table of tokens, but {type(module).__name__} has {type(table).__name__}."
        )
    names = [name for name, value in module.named_parameters(remove_duplicate=False) if value is table.weight]
    if len(names) > 1:
        raise LimbeckError(
            f"'embedding-rank' cannot factorise the embeddings of {type(module).__name__}: {', '.join(names)} are one "
            "table."
        )
    tokens, width = table.weight.shape
    if rank * (tokens + width) >= tokens * width:
        most = (tokens * width - 1) // (tokens + width)
        raise LimbeckError(
            f"'embedding-rank: {rank}' would not make the {tokens} x {width} embeddings smaller: choose {most} or less."
        )
    return put(module, FactorisedEmbedding.of(table, rank))


def rank_of(module: nn.Module) -> int | None:
    """The rank of a model's factorised embeddings; None if they are not."""
    table = _table(module)
    return table.rank if isinstance(table, FactorisedEmbedding) else None


def put(module: nn.Module, embedding: nn.Module) -> nn.Module:
    """Sets the token embeddings of a transformers model; returns the module."""
    whole: Any = module
    whole.set_input_embeddings(embedding)
    return module


def again(module: nn.Module, rank: int) -> nn.Module:
    """The model with factorised embeddings of this rank and any weights: what is filled from a file afterwards."""
    table: Any = _table(module)
    return put(module, FactorisedEmbedding(table.num_embeddings, table.embedding_dim, rank, table.padding_idx))


def multiplied(module: nn.Module) -> nn.Module:
    """A plain transformers model whose table of tokens is the product; the module itself if it is not factorised."""
    table = _table(module)
    if not isinstance(table, FactorisedEmbedding):
        return module
    name = next(name for name, part in module.named_modules() if part is table)
    named = {key: value for key, value in module.state_dict().items() if not key.startswith(f"{name}.")}
    named[f"{name}.weight"] = table.weight.detach()
    whole: Any = module
    return remade(module, copy.deepcopy(whole.config), named).train(module.training)


def _table(module: nn.Module) -> nn.Module | None:
    whole: Any = module
    return whole.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
