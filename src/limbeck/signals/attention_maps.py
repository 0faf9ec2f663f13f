"""Attention scores and probabilities, from what an attention function of transformers was called with."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import SignalError


@dataclass(frozen=True)
class AttentionCall:
    """One call of the attention function: heads apart, [B, h, L, d_head], and what it gave as its probabilities."""

    implementation: str | None
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    causal: bool
    options: dict[str, Any]
    given: Any

    def repeated(self, heads_apart: Tensor) -> Tensor:
        """As many heads as there are of queries."""
        heads, fewer = self.query.shape[1], heads_apart.shape[1]
        return heads_apart if fewer == heads else heads_apart.repeat_interleave(heads // fewer, 1)


def scores_of(call: AttentionCall) -> Tensor:
    """What goes into the softmax, [B, h, L, L]; minus infinity where the call masks.

    Raises:
        SignalError: the implementation hides what it masks, or attends to more than the tokens.
    """
    implementation, mask, options = call.implementation, call.mask, call.options
    query, key = call.query, call.repeated(call.key)
    if implementation not in (None, "eager", "sdpa") or not (
        mask is None or (isinstance(mask, Tensor) and mask.ndim == 4)
    ):
        raise SignalError(
            f"scores and probabilities are recorded under the implementations eager and sdpa, not {implementation!r}: "
            "build the model with attn_implementation='sdpa'."
        )
    if options.get("s_aux") is not None:
        raise SignalError("it attends to sinks besides the tokens, so no scores are recorded; name a module instead.")
    scale = options.get("scaling")
    scores: Tensor = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    cap, bias = options.get("softcap"), options.get("position_bias")
    if cap is not None:
        scores = (scores / cap).tanh() * cap
    if bias is not None:
        scores = scores + bias
    if mask is None:
        if implementation != "sdpa" or not call.causal or query.shape[2] == 1:
            return scores  # eager masks by what it is given alone
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    elif mask.dtype == torch.bool:
        seen = mask
    else:
        seen = mask > torch.finfo(mask.dtype).min / 2
        scores = scores + torch.where(seen, mask, 0.0)
    return scores.masked_fill(~seen, -torch.inf)


def probs_of(scores: Tensor) -> Tensor:
    """Their softmax, float32 at least; a row that sees no key is zero."""
    open_rows = (scores > -torch.inf).any(-1, keepdim=True)
    exact = torch.float32 if scores.dtype in (torch.float16, torch.bfloat16) else scores.dtype
    # before the softmax: a row of minus infinity has nan for a gradient even where it is left out
    return torch.where(open_rows, torch.where(open_rows, scores, 0.0).softmax(-1, dtype=exact), 0.0)
