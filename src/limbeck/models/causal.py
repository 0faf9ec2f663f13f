"""Whether a model foresees: an encoder that reads a text both ways knows the next token before it is asked."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.data.batch import DECODED
from limbeck.errors import LimbeckError
from limbeck.signals.call import accepts, call, logits_of
from limbeck.signals.capture import bare, named

_IDS: Final = "input_ids"
_ROUNDING: Final = 1e-4  # of the largest logit: of the same sums, by perhaps another kernel


def demand_causal(module: nn.Module, columns: Mapping[str, Tensor], name: str) -> None:
    """Changes the second half of some texts, which may not change what is said in the first; where a decoder tells a text, of
    that text.

    Args:
        module: the model, on any device.
        columns: its input columns for some rows.
        name: the model's, for errors.

    Raises:
        LimbeckError: it does, so the model would copy the next token and not learn to tell it.
    """
    told = DECODED if DECODED in columns else _IDS
    ids = columns.get(told)
    if ids is None:
        return
    half, low, high = ids.shape[1] // 2, ids.min(), ids.max()
    mask = columns.get("attention_mask") if told == _IDS else None  # the other is of what an encoder reads
    real = (torch.ones_like(ids) if mask is None else mask)[:, :half].bool()
    if low == high or not real.any():  # too little to see it by
        return
    other = ids.clone()
    other[:, half:] = torch.where(ids[:, half:] == low, high, low)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    before, after = (
        _logits(module, {name: value.to(device) for name, value in {**columns, told: one}.items()})[:, :half][real]
        for one in (ids, other)
    )
    if bool((before - after).abs().max() > _ROUNDING * before.abs().max()):
        raise LimbeckError(
            f"The model {name!r} ({type(module).__name__}) reads a text both ways, so it would see the tokens that it is to "
            "tell: choose one that was made to go on with a text, such as gpt2, llama or qwen2."
        )


def demand_decoder(module: nn.Module, columns: Mapping[str, Tensor], name: str) -> None:
    """The model has an encoder and a decoder, and its decoder begins with the token that the data begins with.

    Raises:
        LimbeckError: it does not.
    """
    inner: Any = named(bare(module))
    if not accepts(inner, DECODED):
        raise LimbeckError(
            f"The model {name!r} ({type(inner).__name__}) has no decoder that is told a text beside the one it turns: choose an "
            "encoder and decoder, such as bart, t5 or marian, or 'task: next-token' for a model that goes on with a text."
        )
    own = getattr(getattr(inner, "config", None), "decoder_start_token_id", None)
    begin = int(columns[DECODED][0, 0])
    if isinstance(own, int) and own != begin:
        raise LimbeckError(
            f"The decoder of {name!r} begins with the token {own}, and the data with {begin}, as the model of its tokenizer "
            "does: give data.tokenizer the folder or name of this model."
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
