"""Whether two models answer alike."""

import copy
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from limbeck.signals.call import call, logits_of

_NEAR: Final = 1e-5  # of the largest logit, or of 1: float32 sums in another order differ by some 1e-6 of it
_ROWS: Final = 8  # run at once: of a language model the logits of one text may be 100 MB


@torch.no_grad()
def same(one: nn.Module, other: nn.Module, columns: Mapping[str, Tensor]) -> bool:
    """Whether the logits of both for the rows of ``columns``, in evaluation mode and float32, differ by rounding alone."""
    models = [copy.deepcopy(model).eval().float() for model in (one, other)]
    for start in range(0, len(next(iter(columns.values()))), _ROWS):
        rows = {name: value[start : start + _ROWS] for name, value in columns.items()}
        first, second = (logits_of(call(model, rows)).double() for model in models)
        if first.shape != second.shape:
            return False
        if not bool((first - second).abs().max() <= _NEAR * first.abs().max().clamp_min(1)):
            return False
    return True
