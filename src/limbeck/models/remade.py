"""A transformers model built anew from a config, with tensors that another one had."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.huggingface import forget_origin
from limbeck.models.weights import fill


def config_of(donor: nn.Module, what: str) -> Any:
    """The config of a transformers model.

    Raises:
        LimbeckError: it has none, so ``what`` cannot be had of it.
    """
    config = getattr(donor, "config", None)
    if not hasattr(config, "to_dict") or not hasattr(donor, "get_input_embeddings"):
        raise LimbeckError(
            f"{what} is worked out from a transformers model's config, and {type(donor).__name__} has none: only "
            "'layers' can be chosen of it."
        )
    return config


def remade(donor: nn.Module, config: Any, named: Mapping[str, Tensor]) -> nn.Module:
    """A model of the donor's class by ``config``, with the tensors ``named`` and the donor's dtype, on the CPU.

    Raises:
        LimbeckError: the tensors do not fit.
    """
    module = _by(donor, config)
    module.to(dtype=next(donor.parameters()).dtype)
    fill(module, named, type(donor).__name__)
    forget_origin(module)
    if getattr(donor, "generation_config", None) is not None:
        module.generation_config = copy.deepcopy(donor.generation_config)  # when to stop is not all in the config
    return module


def demand_readable(donor: nn.Module, config: Any) -> None:
    """Raises a `LimbeckError` where a config could be written, but never be read again."""
    try:
        type(config).from_dict(config.to_dict())
    except Exception as error:  # each config checks itself in its own way
        reason = " ".join(str(error).split())[:300]
        raise LimbeckError(f"{type(donor).__name__} cannot have these sizes: {reason}") from error


def _by(donor: nn.Module, config: Any) -> nn.Module:
    """A model like the donor by another config; what wraps one says itself how."""
    make: Any = getattr(donor, "by", type(donor))
    module: nn.Module = make(config)
    return module


def shapes(donor: nn.Module, config: Any) -> dict[str, tuple[int, ...]]:
    """The shapes that a model of the donor's class would have by ``config``; nothing is allocated.

    Raises:
        LimbeckError: there is no such model.
    """
    return {name: tuple(value.shape) for name, value in without_weights(donor, config).state_dict().items()}


def without_weights(donor: nn.Module, config: Any) -> nn.Module:
    """A model of the donor's class by ``config`` on the meta device: nothing is allocated.

    Raises:
        LimbeckError: there is no such model.
    """
    try:
        with torch.device("meta"):
            return _by(donor, config)
    except Exception as error:  # a model may refuse a config in any way
        reason = " ".join(str(error).split())[:300]
        raise LimbeckError(f"{type(donor).__name__} cannot have these sizes: {reason}") from error
