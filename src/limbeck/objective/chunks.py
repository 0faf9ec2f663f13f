"""Where both sides stand at the same place of a text: what a term between two tokenizers has a value for."""

from typing import Final, Literal

import torch
from torch import Tensor

from limbeck.data.aligned import CHUNKS
from limbeck.data.batch import CLASS, NO_LABEL, REAL, Batch
from limbeck.errors import SignalError

Side = Literal["student", "teacher"]
SIDES: Final[tuple[Side, Side]] = ("student", "teacher")


def chunks_of(batch: Batch, side: Side) -> Tensor:
    """At each token the chunk that the next one is part of, int64 [B, L], counted over the whole batch; -1: of none.

    Of one tokenizer every token that is to be foreseen is a chunk of its own.

    Raises:
        SignalError: the two sides have tokenizers of their own, and it is not known which tokens go together.
    """
    found = batch.inputs.get(CHUNKS + side)
    if found is None and "teacher.input_ids" in batch.inputs:
        raise SignalError(
            "Student and teacher cut the texts into tokens with two tokenizers, and this batch does not say which tokens go "
            "together: read the texts by a table whose task is next-token, and whose tokenizers say how tokens are spelled."
        )
    if found is None:
        counts = batch.labels[CLASS] != NO_LABEL
        found = torch.where(counts, counts.cumsum(1) - 1, -1)
    found = found.long().where(batch.masks[REAL][:, None], -1)
    each = found.amax(1) + 1
    return torch.where(found >= 0, found + (each.cumsum(0) - each)[:, None], -1)


def openings(chunks: Tensor) -> Tensor:
    """The tokens after which a chunk begins, bool [B, L]: of both sides as many in each row, in the same order."""
    before = torch.cat([torch.full_like(chunks[:, :1], -1), chunks[:, :-1].cummax(1).values], 1)
    return (chunks >= 0) & (chunks > before)


def opened(batch: Batch) -> Tensor:
    """The student's tokens after which a chunk begins, bool [B, L]: each is a value of a term of scope ``token``."""
    return openings(chunks_of(batch, "student"))


def places(mask: Tensor) -> Tensor:
    """Where a mask [B, L] is true, int64 [N] in [B x L]."""
    return mask.flatten().nonzero()[:, 0]
