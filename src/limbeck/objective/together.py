"""The rows of all processes at once, for terms that compare the examples of a batch with each other."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from limbeck.data.batch import Batch


def processes() -> int:
    """How many processes train together; 1 outside of a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(value: Tensor) -> Tensor:
    """The sum over the processes, without a graph."""
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


class _Gather(torch.autograd.Function):
    """All processes' rows, one after the other; the gradient of a row goes back to the process that it came from."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.rows = len(value)
        pieces = [torch.empty_like(value) for _ in range(processes())]
        dist.all_gather(pieces, value.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.rows
        return total[first : first + ctx.rows]


def _gathered(value: Tensor) -> Tensor:
    if value.dtype == torch.bool:  # not every backend sends truth values
        return _gathered(value.to(torch.uint8)).bool()
    rows: Tensor = _Gather.apply(value)  # type: ignore[no-untyped-call]
    return rows


def together(batch: Batch, *sides: Mapping[str, Tensor]) -> tuple[Batch, list[dict[str, Tensor]]]:
    """Batch and signals of all processes, which hold equally many rows each; as they are where there is one process."""
    if processes() == 1:
        return batch, [dict(side) for side in sides]
    return batch.each(_gathered), [{name: _gathered(side[name]) for name in sorted(side)} for side in sides]
