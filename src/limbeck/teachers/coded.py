"""Between a teacher's batches and the codec of its logits."""

from dataclasses import replace
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data.aligned import CHUNKS
from limbeck.data.batch import CLASS, NO_LABEL, REAL, TOKENS, Batch
from limbeck.errors import SignalError
from limbeck.losses.offer import Offer
from limbeck.losses.storages import Dense, Storage, stored
from limbeck.signals.capture import Signals
from limbeck.teachers.store.codecs import Codec
from limbeck.teachers.store.frame import Rows, sizes
from limbeck.teachers.teacher import Provides, Teacher

LOGITS: Final = "logits"


def tokens(batch: Batch) -> Tensor:
    """The positions that count, [B, length], of the columns that the teacher reads."""
    own = batch.inputs.get("teacher.attention_mask")
    return batch.masks[TOKENS] if own is None else own.bool()


def length_of(batch: Batch) -> int | None:
    """The length of the teacher's texts; None where the data has none."""
    return tokens(batch).shape[1] if TOKENS in batch.masks or "teacher.attention_mask" in batch.inputs else None


def whole(logits: Storage) -> Tensor:
    """Every logit of a storage as one tensor, [..., V].

    Raises:
        SignalError: only a part of each distribution is known.
    """
    if logits.offers < Offer.ROWS:
        raise SignalError(
            f"Of these logits only {logits.offers.name.lower()} are known, and they cannot be stored in full: store those of "
            "the model itself, or switch the store off."
        )
    count = logits.rows.numel()
    made = cast(Dense, logits.at(torch.arange(count)).chunk(0, count)).logits
    return made.view(*logits.rows, logits.classes)


@torch.no_grad()
def encoded(codec: Codec, logits: Storage, batch: Batch) -> Tensor:
    """The rows of a batch as bytes, uint8 [B, longest] on the CPU; of the tokens of real rows alone, where there are tokens."""
    labels = _labels(batch)
    told = labels is not None and labels.dtype == torch.int64 and labels.shape == logits.rows
    counted = _counted(batch)
    masked = counted is not None and counted.shape == logits.rows
    ids, views = batch.ids.cpu().numpy(), batch.views.cpu().numpy()
    return codec.encode(logits, Rows(ids, views, counted if masked else None, labels if told else None))


def decoded(codec: Codec, rows: Tensor, batch: Batch) -> Storage:
    """What the bytes say, on the batch's device."""
    return codec.decode(rows, _counted(batch), batch.ids.device)


def merged(stored: Tensor, fresh: Tensor, rows: Tensor) -> Tensor:
    """``stored`` rows of bytes with ``fresh`` ones at ``rows``, bool [B]."""
    wide = max(stored.shape[1], fresh.shape[1])
    both = F.pad(stored, (0, wide - stored.shape[1]))
    both[rows] = F.pad(fresh, (0, wide - fresh.shape[1]))
    return both


def empty(rows: Tensor) -> Tensor:
    """Which rows of bytes are no distributions, bool [B]."""
    return torch.from_numpy(sizes(rows) == 0)


def _labels(batch: Batch) -> Tensor | None:
    """The labels at the positions that the teacher reads: of a tokenizer of its own, its next tokens in the aligned text."""
    chunks, ids = batch.inputs.get(f"{CHUNKS}teacher"), batch.inputs.get("teacher.input_ids")
    if chunks is None or ids is None:
        return batch.labels.get(CLASS)
    return ids.roll(-1, 1).where(chunks >= 0, NO_LABEL)


def _counted(batch: Batch) -> Tensor | None:
    """The tokens of real rows that something is to be learnt of: not those of a prompt, nor a text's last one."""
    if length_of(batch) is None:
        return None
    counted, labels = tokens(batch) & batch.masks[REAL][:, None], _labels(batch)
    if labels is not None and labels.dtype == torch.int64 and labels.shape == counted.shape:
        counted = counted & (labels != NO_LABEL)
    return counted.cpu()


class CodedTeacher:
    """A teacher as its store will show it, with nothing stored: each answer goes through the codec and back.

    ``bytes``: of the last answer's logits, as they would be stored.
    """

    def __init__(self, teacher: Teacher, codec: Codec) -> None:
        self.teacher, self.codec, self.bytes = teacher, codec, 0

    @property
    def fingerprint(self) -> str | None:
        """The teacher's own."""
        return self.teacher.fingerprint

    @property
    def provides(self) -> Provides:
        """The teacher's own; of its logits what the codec keeps."""
        own = self.teacher.provides
        return replace(own, offers=min(own.offers, self.codec.offers))

    @property
    def module(self) -> nn.Module | None:
        """The teacher's own."""
        return self.teacher.module

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """See `Teacher.observe`."""
        seen = dict(self.teacher.observe(batch, needs))
        if LOGITS in seen:
            rows = encoded(self.codec, stored(seen[LOGITS]), batch)
            self.bytes = int(sizes(rows).sum())
            seen[LOGITS] = cast(Tensor, decoded(self.codec, rows, batch))
        return seen
