"""A teacher of the texts that it wrote: what it told of each token while it wrote is all that it can show."""

import logging
from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import torch

from limbeck.config import digest
from limbeck.data.batch import NO_LABEL, REAL, Batch
from limbeck.data.examples import Examples
from limbeck.data.forms import Forms
from limbeck.errors import LimbeckError, SignalError
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer
from limbeck.teachers.author import Step
from limbeck.teachers.likeliest import Row, at_tokens
from limbeck.teachers.teacher import Provides

LOGITS: Final = frozenset({"logits"})
_log = logging.getLogger(__name__)


class Recalled:
    """What an author told of its texts, at the tokens of the rows of a data set. Its logits are `TopK`.

    Where nothing was told of a token, nothing is known of it: prompts, ends that a server does not write, and what follows on a
    token that the student reads otherwise.

    Args:
        fingerprint: of the author, and of how it wrote.
        rows: for each row of the table.
        classes: V of the tokenizer.
    """

    def __init__(self, fingerprint: str, rows: Sequence[Row], classes: int) -> None:
        self._rows, self._classes = rows, classes
        self._fingerprint = digest(["recalled", fingerprint, *(row.packed().hex() for row in rows)])
        self._width = max((row.ids.shape[1] for row in rows), default=1)

    @property
    def fingerprint(self) -> str:
        """Names the author and what it told."""
        return self._fingerprint

    @property
    def provides(self) -> Provides:
        """The likeliest tokens and their tail, at what it wrote."""
        return Provides(LOGITS, Offer.OUTCOMES, self._classes, unseen=False)

    @property
    def module(self) -> None:
        """None: it is elsewhere."""
        return None

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`.

        Raises:
            SignalError: another signal than the logits is needed, or a row has other tokens than those that were written.
        """
        if lacking := needs - LOGITS:
            raise SignalError(
                f"A teacher that was asked for texts shows its logits alone, not {', '.join(map(repr, sorted(lacking)))}."
            )
        columns = batch.columns("teacher")
        real = batch.masks[REAL].cpu()
        mask = columns["attention_mask"].cpu().bool() & real[:, None]
        rows = [self._rows[row] if own else None for row, own in zip(batch.ids.tolist(), real.tolist(), strict=True)]
        lengths = mask.sum(1).tolist()
        for row, length, place in zip(rows, lengths, batch.ids.tolist(), strict=True):
            if row is not None and len(row.ids) != length:
                raise SignalError(f"Row {place} has {length} tokens, and {len(row.ids)} were written there.")
        return cast(Signals, {"logits": at_tokens(rows, mask, self._width, self._classes, batch.ids.device)})


def recalled(
    fingerprint: str, examples: Examples, told: Sequence[Sequence[Step]], forms: Forms, classes: int | None = None
) -> Recalled:
    """What was ``told`` of each row's text, at the tokens by which the rows are read.

    A row's tokens are followed as far as they are those that were written. Of the likeliest tokens those count that are known by
    what they are written as; the others belong to the tail. ``classes``: V, if the models have more than the tokenizer.

    Raises:
        LimbeckError: most tokens are others than were written: the tokenizer is not the author's.
    """
    examples = examples.as_read_by("teacher")
    table, count = examples.table, len(examples.rows)
    rows, met, every = list[Row](), 0, 0
    for start in range(0, count, 256):
        ids = examples.rows[start : start + 256]
        lengths = table.read(ids, torch.zeros_like(ids))["attention_mask"].sum(1).tolist()
        following = examples.labels[ids][..., 0]
        for place, length in enumerate(lengths):
            row, found = _row(following[place, :length].tolist(), told[start + place], forms)
            rows.append(row)
            met, every = met + found, every + len(told[start + place])
    if 2 * met < every:
        raise LimbeckError(
            f"The teacher wrote {every:,} tokens, and of these {met:,} alone are those by which data.tokenizer reads its texts: "
            "it has another tokenizer, so its log-probabilities are of other tokens. Name its tokenizer, or learn from its texts "
            "alone ('logprobs: none')."
        )
    return Recalled(fingerprint, rows, classes or forms.classes)


def _row(following: Sequence[int], steps: Sequence[Step], forms: Forms) -> tuple[Row, int]:
    """The row of a text by the tokens to be foreseen at each of its places, and how many of its steps are used."""
    row = Row.empty(len(following), max((len(step) for step in steps), default=1))
    answer = [place for place, token in enumerate(following) if token != NO_LABEL]
    used = 0
    for place, step in zip(answer, steps, strict=False):
        own = following[place]
        if not forms.may_be(step[0][0], own):
            break
        known = {own: step[0][1]}
        for name, value in step[1:]:
            token = own if forms.may_be(name, own) else forms.token(name)
            if token is not None:
                known.setdefault(token, value)
        ids, logs = zip(*sorted(known.items(), key=lambda one: -one[1]), strict=True)
        row.ids[place, : len(ids)], row.logs[place, : len(ids)] = ids, np.minimum(logs, 0)
        used += 1
    return row, used
