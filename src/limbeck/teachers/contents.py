"""What a teacher saw, as 128 bits a row: so that rows of one store are known again in another.

The words of a row are multiplied by fixed random numbers and summed modulo 2^64, twice (multilinear hashing, Carter & Wegman
1979): exact integers, so alike on every device, and as fast as memory is read.
"""

import hashlib
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from limbeck.data.batch import CLASS, TOKENS, Batch

CONTENT: Final = "#inputs"
"""The column of a store that holds them."""
_WORDS: Final = 4096  # at a time: what is multiplied stays in the cache


def contents(batch: Batch, labels: bool = False) -> Tensor:
    """int64 [B, 2]; equal for rows with equal inputs of the teacher, however far they are padded.

    ``labels``: whether what is stored depends on them too.
    """
    columns = dict(batch.columns("teacher"))
    if labels and CLASS in batch.labels:
        columns["=labels"] = batch.labels[CLASS]
    mask = columns.get("attention_mask", batch.masks.get(TOKENS))
    total = torch.zeros(len(batch), 2, dtype=torch.int64, device=batch.ids.device)
    for name in sorted(columns):
        value = columns[name].detach()
        per_token = mask is not None and value.shape[:2] == mask.shape
        if per_token and mask is not None:
            there = mask.bool().view(*mask.shape, *([1] * (value.ndim - 2)))
            value = torch.where(there, value, torch.zeros((), dtype=value.dtype, device=value.device))
        rest = value.shape[2:] if per_token else value.shape[1:]
        words = _words(value)
        factors = _factors(f"{name} {value.dtype} {tuple(rest)}", words.shape[1])
        for start in range(0, words.shape[1], _WORDS):
            here = slice(start, start + _WORDS)
            total += (words[:, here, None].long() * factors[here].to(words.device)).sum(1)
    return total


def _words(value: Tensor) -> Tensor:
    """[B, ...] of any type as integers [B, words]."""
    flat = value.contiguous().view(len(value), -1) if value.numel() else value.new_zeros(len(value), 0)
    if flat.dtype == torch.bool:
        return flat.view(torch.uint8)
    return flat if flat.element_size() == 1 else flat.view(torch.int16 if flat.element_size() == 2 else torch.int32)


def _factors(of: str, count: int) -> Tensor:
    """int64 [count, 2]; a longer one begins with a shorter one."""
    return _drawn(of, 1 << max(0, count - 1).bit_length())[:count]


@lru_cache(maxsize=16)
def _drawn(of: str, count: int) -> Tensor:
    key = int.from_bytes(hashlib.sha256(of.encode()).digest()[:16], "little")
    return torch.from_numpy(np.random.Philox(key=key).random_raw(2 * count).view(np.int64).reshape(-1, 2))
