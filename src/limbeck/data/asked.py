"""What a model answers to examples as they are."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.data.batch import Batch
from limbeck.data.examples import Examples
from limbeck.data.task import Answered, answered, joined

_ROWS = 256


@torch.no_grad()
def asked(logits: Callable[[Batch], Tensor], examples: Examples, device: str) -> Answered:
    """The answers to all examples where the truth is known, float32 on the CPU, in the order of ``examples.rows``.

    ``logits``: a model's for a batch on ``device``. Texts are asked by their length, batch by batch, and their answers have the
    shapes of their batch.
    """
    found, spread = [], examples.spread
    asking = examples.by_length()
    for ids in torch.split(examples.rows[asking], _ROWS):
        batch = examples.batch(ids, torch.zeros_like(ids)).to(device)
        found.append(answered(examples.task, logits(batch), batch, spread))
    every = joined(found)
    example = asking[every.example]
    order = example.argsort(stable=True)
    return replace(every, logits=every.logits[order], labels=every.labels[order], example=example[order])
