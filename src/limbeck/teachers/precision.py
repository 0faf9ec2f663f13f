"""How a teacher in memory is run: in another precision, compiled, or as it is."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.config import Config, digest
from limbeck.errors import LimbeckError
from limbeck.extras import imported

Precision = Literal["fp32", "bf16", "int8"] | None


class Asking(Config):
    """How a model that teaches is run; its weights as they were given stay as they are."""

    precision: Precision = None
    """Of its weights: ``bf16``, half the memory of float32; ``int8``, those of linear layers in 8 bits with a scale a row, by
    torchao; null: as they are."""
    compile: bool = False
    """Whether torch.compile makes code for it, which takes a while and needs a C++ compiler."""

    def named(self, fingerprint: str) -> str:
        """The fingerprint of a model that is run like this: the last bits of its answers, at least, are others."""
        return fingerprint if self == Asking() else digest([fingerprint, self])

    def module(self, module: nn.Module) -> nn.Module:
        """The model in this precision: a copy, or itself where nothing is to be changed.

        Raises:
            LimbeckError: torchao is not installed, or the model has no linear layer.
        """
        if self.precision is None:
            return module
        if self.precision == "int8":
            return _in_8_bits(module)
        dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        if all(one.dtype == dtype for one in module.parameters()):
            return module
        return _cast(copy.deepcopy(module), dtype)


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Weights and what is saved with them; the frequencies of rotary positions, say, are not, and would lose too much."""
    saved = module.state_dict(keep_vars=True)
    for value in saved.values():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.data = value.data.to(dtype)
    return module


def _in_8_bits(module: nn.Module) -> nn.Module:
    """Linear layers with weights of 8 bits; not the head of a language model, which is read and not run."""
    torchao = imported("torchao.quantization", "'precision: int8' needs torchao", "int8")
    lowered = copy.deepcopy(module)
    find = getattr(lowered, "get_output_embeddings", None)
    head = find() if callable(find) else None
    linear = [one for one in lowered.modules() if isinstance(one, nn.Linear) and one is not head]
    if not linear:
        raise LimbeckError(
            f"'precision: int8' is for linear layers, and {type(module).__name__} has none: choose bf16, or leave it out."
        )
    torchao.quantize_(
        lowered, torchao.Int8WeightOnlyConfig(), filter_fn=lambda one, _: any(one is each for each in linear)
    )
    return lowered
