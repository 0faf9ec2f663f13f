"""Two tokenisations of the texts of a table, aligned once: which stretch of its text each token is to go on with."""

import logging
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.data.alignment import byte_ends, chunks, shared_tokens
from limbeck.data.items import Item
from limbeck.data.sequences import Sequences
from limbeck.data.spelling import Kind, Spelling, spelling
from limbeck.data.tokenizers import loaded
from limbeck.errors import DataError

log = logging.getLogger("limbeck.data")
CHUNKS: Final = "chunks."
"""Before the names of the two columns, ``chunks.student`` and ``chunks.teacher``: int32 [B, L], at each token the number of the
chunk that the next one is part of, counted from 0 in each row; -1: of none."""
_MANY: Final = 0.1  # of the rows; where more do not line up, the tokenizers do not suit the data


class Aligned:
    """The chunks of rows of text that two tokenizers read.

    A chunk covers the same bytes on both sides and cannot be split further; the end of a text is one as well, where both sides
    have it. Prompts are in none, nor is a chunk of which either side does not foresee every token. A row whose tokens do not
    spell its text has no chunks.
    """

    def __init__(self, texts: Sequence[Item], student: Sequences, teacher: Sequences) -> None:
        self._sides = {"student": student, "teacher": teacher}
        self._flat: dict[str, Tensor] = {}
        self.lost: dict[int, str] = {}
        """The rows that do not line up, and why."""
        self.why: str | None = None
        """Why no row can be aligned, if the tokenizers do not say how their tokens are spelled."""
        self._warned = False
        try:
            self._spelled = {side: _spelling(own.reader.tokenizer) for side, own in self._sides.items()}
        except DataError as error:
            self.why = str(error)
            return
        parts: dict[str, list[Tensor]] = {side: [] for side in self._sides}
        for row, text in enumerate(texts):
            written = text if isinstance(text, str) else text[1]
            try:
                both = [_ends(self._spelled[side], written, *own.row(row)) for side, own in self._sides.items()]
            except DataError as error:
                self.lost[row] = str(error).partition(": ")[2]
                both = [torch.full((len(own.row(row)[0]),), -1) for own in self._sides.values()]
            for side, found in zip(self._sides, foreseen(*both), strict=True):
                parts[side].append(found.int())
        self._flat = {side: torch.cat([torch.empty(0, dtype=torch.int32), *own]) for side, own in parts.items()}

    def columns(self, rows: Tensor) -> dict[str, Tensor]:
        """The two columns for ``rows``, int64 [B]; none where no row can be aligned."""
        return {CHUNKS + side: self._sides[side].spread(flat, rows, -1) for side, flat in self._flat.items()}

    def demand(self) -> None:
        """Warns of rows that do not line up.

        Raises:
            DataError: they are many, or all.
        """
        rows = len(self._sides["student"].lengths)
        if self.why is not None or len(self.lost) > _MANY * rows:
            first = next(iter(self.lost), 0)
            why = self.why or f"of {len(self.lost)} of {rows} rows they do not. Row {first}: {self.lost[first]}"
            raise DataError(
                "Terms for two tokenizers compare what student and teacher say of the same bytes, so the tokens of both must "
                f"spell the texts as they are: {why}"
            )
        if self.lost and not self._warned:
            self._warned = True
            first = next(iter(self.lost))
            log.warning(
                "%d of %d rows do not line up between the two tokenizers, and are learnt from without the terms that compare "
                "them. Row %d: %s",
                *(len(self.lost), rows, first, self.lost[first]),
            )

    @cached_property
    def vocabulary(self) -> Tensor:
        """The teacher's token that spells the same, for each of the student's, int64 [V]; see `shared_tokens`.

        None is where only one of the two has white space in its tokens: the same letters then mean different things.
        """
        ours, theirs = self._spelled["student"], self._spelled["teacher"]
        return shared_tokens(ours, theirs) if ours.spaced == theirs.spaced else torch.full((len(ours.tokens),), -1)


@lru_cache(maxsize=8)
def _spelling(tokenizer: str) -> Spelling:
    return spelling(loaded(tokenizer).tokenizer)


def foreseen(student_ends: Tensor, teacher_ends: Tensor) -> tuple[Tensor, Tensor]:
    """The chunk of each token's next one, int64 [T_s] and [T_t], of byte ends of one row; see `Aligned`."""
    ours, theirs = (side[0] for side in chunks(student_ends[None], teacher_ends[None]))
    if bool((ours[:1] == 0).any() or (theirs[:1] == 0).any()):  # nothing foresees a row's first token
        ours, theirs = (
            side - (side >= 0).long() for side in (ours.where(ours != 0, -1), theirs.where(theirs != 0, -1))
        )
    return F.pad(ours[1:], (0, 1), value=-1), F.pad(theirs[1:], (0, 1), value=-1)


def _ends(spelled: Spelling, text: str, tokens: Tensor, known: int) -> Tensor:
    """Where the tokens of a row end in its text, int64 [T], -1 for those of a prompt and others without bytes.

    The token that ends the text has one byte more than the text. What a chat template writes after it is not looked at.
    """
    special = torch.tensor([spelled.tokens[token].kind == Kind.SPECIAL for token in tokens.tolist()])
    place = torch.arange(len(tokens))
    begins = int(((place >= known) & ~special).byte().argmax()) if bool((~special[known:]).any()) else len(tokens)
    closing = (special & (place >= begins)).nonzero()
    ends = int(closing[0]) if len(closing) else len(tokens)
    found = byte_ends(spelled, [text], tokens[None], ((place >= begins) & (place < ends))[None])[0]
    size = len(text.encode())
    if ends < len(tokens) and int(found.max()) == size:
        found[ends] = size + 1
    return found
