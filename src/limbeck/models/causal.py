"""Whether a model foresees: an encoder that reads a text both ways knows the next token before it is asked."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.signals.call import call, logits_of

_IDS: Final = "input_ids"
_ROUNDING: Final = 1e-4  # of the largest logit: of the same sums, by perhaps another kernel


def demand_causal(module: nn.Module, columns: Mapping[str, Tensor], name: str) -> None:
    """Changes the second half of some texts, which may not change what is said in the first.

    Args:
        module: the model, on any device.
        columns: its input columns for some rows.
        name: the model's, for errors.

    Raises:
        LimbeckError: it does, so the model would copy the next token and not learn to tell it.
    """
    ids = columns.get(_IDS)
    if ids is None:
        return
    half, low, high = ids.shape[1] // 2, ids.min(), ids.max()
    real = columns.get("attention_mask", torch.ones_like(ids))[:, :half].bool()
    if low == high or not real.any():  # too little to see it by
        return
    other = ids.clone()
    other[:, half:] = torch.where(ids[:, half:] == low, high, low)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    before, after = (
        _logits(module, {name: value.to(device) for name, value in {**columns, _IDS: one}.items()})[:, :half][real]
        for one in (ids, other)
    )
    if bool((before - after).abs().max() > _ROUNDING * before.abs().max()):
        raise LimbeckError(
            f"The model {name!r} ({type(module).__name__}) reads a text both ways, so it would see the tokens that it is to "
            "tell: choose one that was made to go on with a text, such as gpt2, llama or qwen2."
        )


@torch.no_grad()
def _logits(module: nn.Module, columns: Mapping[str, Tensor]) -> Tensor:
    """In evaluation mode, on the CPU; the module's mode is put back."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        return logits_of(call(module, columns)).float().cpu()
    finally:
        for part in training:
            part.training = True
