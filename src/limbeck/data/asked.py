"""What a model answers to examples as they are."""

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.data.batch import Batch
from limbeck.data.examples import Examples
from limbeck.data.task import Answered, answered, joined

_ROWS = 256


@torch.no_grad()
def asked(logits: Callable[[Batch], Tensor], examples: Examples, device: str) -> Answered:
    """The answers to all examples where the truth is known, float32 on the CPU.

    ``logits``: a model's for a batch on ``device``. Batch by batch, as those of texts have other shapes where texts have other
    lengths.
    """
    found, spread = [], examples.spread
    for ids in torch.split(examples.rows, _ROWS):
        batch = examples.batch(ids, torch.zeros_like(ids)).to(device)
        found.append(answered(examples.task, logits(batch), batch, spread))
    return joined(found)
