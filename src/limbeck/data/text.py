"""The table of texts, tokenised once."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.config import digest
from limbeck.data import fingerprint, items
from limbeck.data.aligned import Aligned
from limbeck.data.items import Item
from limbeck.data.reader import Reader
from limbeck.data.sequences import Sequences
from limbeck.data.task import Task, at_tokens
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenised import tokenised
from limbeck.data.tokenizers import loaded
from limbeck.data.tokens import CHUNK, Tokens
from limbeck.data.turned import Turned
from limbeck.data.vocabularies import compared
from limbeck.data.writing.writer import Writer
from limbeck.errors import DataError

log = logging.getLogger("limbeck.data")
TEACHER: Final = "teacher."  # before the names of columns that only the teacher reads
_STRANGE: Final = 0.3  # of the tokens; more unknown ones say little
_FLATTERING: Final = 0.005
_FEW: Final = 64  # rows by which two tokenizers are told apart
_ASKED: Final = 1024  # rows on which two language models' tokenizers must agree to be taken for one


@dataclass(frozen=True)
class Reach:
    """What a model of texts must be able to read: the ``largest`` token of the data, as many tokens as its ``longest`` text has,
    and as many as the reader's ``limit`` lets through, which a delivered student will be given.
    """

    largest: int
    longest: int
    limit: int


@final
class TextTable:
    """Texts, tokenised when the table is made.

    ``teacher``: the teacher's reader, where it is another one; its columns are named ``teacher.input_ids`` and so on.
    ``writer``: writes what a row says under views above 0, for both readers; without one every view is the row as it is.

    Raises:
        DataError: no texts, one that is no text or has no token, or there is no such tokenizer.
    """

    def __init__(
        self,
        texts: Sequence[Item],
        reader: TextReader,
        teacher: TextReader | None = None,
        writer: Writer | None = None,
    ) -> None:
        if not len(texts):
            raise DataError("There are no texts to learn from.")
        if reader.reads == "pairs" and isinstance(texts[0], str):
            raise DataError(
                "The task 'vectors' learns from pairs of texts that belong together, but row 0 is a single text: give the "
                "second text too, in a table by its column ('pair')."
            )
        if reader.reads == "sources" and isinstance(texts[0], str):
            raise DataError(
                "The task 'text-to-text' turns a text into another, but row 0 is a single text: give what each is to be turned "
                "into, in a table by its column ('pair')."
            )
        self.reader: Reader = reader
        self._reader = reader
        self.teacher = teacher if teacher is not None and not _one(reader, teacher, texts) else None
        self.writer = writer
        self._texts = texts
        self._sides = {"": tokenised(texts, reader)}
        readers = [reader.fingerprint]
        if self.teacher is not None:
            self._sides[TEACHER] = tokenised(texts, self.teacher)
            readers.append(self.teacher.fingerprint)
        for tokens in self._sides.values():
            if reader.reads in ("sequences", "sources") and tokens.unknown > _FLATTERING:
                log.warning(
                    "the tokenizer %r does not know %.0f %% of the tokens of the data. A model that foresees an unknown one "
                    "counts as if it had foreseen its letters: compare compression and bits per byte with no other tokenizer.",
                    *(tokens.reader.tokenizer, 100 * tokens.unknown),
                )
            elif tokens.unknown > _STRANGE:
                log.warning(
                    "the tokenizer %r does not know %.0f %% of the tokens of the data: is it for texts of this kind?",
                    *(tokens.reader.tokenizer, 100 * tokens.unknown),
                )
        self.aligned = self._aligned(texts, self._sides)
        written = [writer.fingerprint] if writer is not None else []
        self.fingerprint = digest(["texts", fingerprint.texts(texts), readers, *written])

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def texts(self) -> "TextTable":
        """Itself."""
        return self

    @functools.cached_property
    def theirs(self) -> "TextTable | None":
        """The same texts as the teacher's own reader reads them; None: as the student's does."""
        return None if self.teacher is None else TextTable(self._texts, self.teacher, writer=self.writer)

    def _aligned(self, texts: Sequence[Item], sides: Mapping[str, Any]) -> Aligned | None:
        """Which tokens of both sides go together, where language models read them with two tokenizers."""
        if self.teacher is None or self._reader.reads != "sequences":
            return None
        return Aligned(texts, sides[""], sides[TEACHER])

    def over(self, texts: Sequence[Item]) -> "TextTable":
        """A table of other texts, read as these are; every view of a row is the row as it is."""
        return TextTable(texts, self._reader, self.teacher)

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        """The columns of `TextReader.encode` for ``ids`` under ``views`` (both int64 [B]), int64 [B, length].

        A row has the same tokens in every batch; only its padding follows the longest of the batch.
        """
        texts, sides, rows = self._texts, self._sides, ids
        if self.writer is not None and bool((views > 0).any()):
            texts, rows = cast(Sequence[Item], self.written(ids, views)), torch.arange(len(ids))
            sides = {side: tokenised(texts, tokens.reader) for side, tokens in sides.items()}
        found = {side + name: column for side, tokens in sides.items() for name, column in tokens.padded(rows).items()}
        aligned = self.aligned if sides is self._sides else self._aligned(texts, sides)
        return found if aligned is None else found | aligned.columns(rows)

    def placed(self, labels: Tensor, task: Task) -> Tensor:
        """Labels of texts, [len(self), ...], at their tokens, for a task whose answers stand there; else as they are.

        Raises:
            DataError: the teacher reads other tokens.
        """
        if not at_tokens(task) and task.gives != "tokens":
            return labels
        if self.teacher is not None and task.reads != "sequences":
            raise DataError(
                f"Student and teacher have two tokenizers, so their tokens do not line up, and the task {task.name!r} has "
                "its answers at tokens: give the student the teacher's tokenizer (leave out data.tokenizer)."
            )
        every = torch.arange(len(self))
        if task.gives == "tokens":
            following = cast(Sequences | Turned, self._sides[""])
            return torch.cat([following.following(rows, following.longest) for rows in torch.split(every, CHUNK)])
        tokens = cast(Tokens, self._sides[""])
        return task.placed(
            labels, torch.cat([tokens.places(rows, tokens.longest).int() for rows in torch.split(every, CHUNK)])
        )

    def written(self, ids: Tensor, views: Tensor) -> list[Any]:
        """What rows ``ids`` say under ``views`` (both int64 [B]); the text as it is where no letter or digit was left."""
        texts = [self._texts[row] for row in ids.tolist()]
        if self.writer is None:
            return texts
        new = self.writer.write(cast(Sequence[str], self._texts), ids, views)
        return [one if any(map(str.isalnum, one)) else text for one, text in zip(new, texts, strict=True)]

    def altered(self, ids: Tensor, views: Tensor) -> Tensor:
        """Which of the rows say something else than the text as it is, bool [B]."""
        texts = [self._texts[row] for row in ids.tolist()]
        return torch.tensor([new != text for new, text in zip(self.written(ids, views), texts, strict=True)]).bool()

    def demand_tokens_of(self, side: str, tokenizer: str, who: str) -> None:
        """The columns of ``side`` are the tokens of ``tokenizer``, as far as some rows tell.

        Raises:
            DataError: they are not; ``who`` was trained with that tokenizer.
        """
        reader = self.teacher if side == "teacher" and self.teacher is not None else self._reader
        other, few = reader.model_copy(update={"tokenizer": tokenizer}), self._texts[:_FEW]
        ours, theirs = (one.encode(few) for one in (reader, other))
        names = [name for name in ours if name.endswith("input_ids")]
        if not all(name in theirs and torch.equal(ours[name], theirs[name]) for name in names):
            raise DataError(
                f"{who} was trained with the tokenizer {tokenizer!r}, and would be given the tokens of {reader.tokenizer!r}, "
                "which are other words to it: "
                + (
                    "leave out data.tokenizer."
                    if side == "student"
                    else "its tokenizer must be that of the recipe's teacher."
                )
            )

    def reach(self, side: str) -> Reach:
        """What a model of this side, ``student`` or ``teacher``, must be able to read."""
        tokens = self._sides.get(TEACHER if side == "teacher" else "", self._sides[""])
        return Reach(tokens.largest, tokens.longest, tokens.reader.max_length)

    def lengths(self, side: str) -> Tensor:
        """How many tokens each row as it is has for this side, ``student`` or ``teacher``, int64 [len(self)]."""
        return self._sides.get(TEACHER if side == "teacher" else "", self._sides[""]).lengths

    def alike(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Which rows of the columns that `read` gave are the same tokens to student and teacher, bool [B]."""
        found = torch.ones(len(inputs["input_ids"]), dtype=torch.bool)
        if (known := self.teacher_tokens) is None:
            return found
        for name in (name for name in inputs if name.endswith("input_ids") and not name.startswith(TEACHER)):
            mask, own = (name.removesuffix("input_ids") + "attention_mask", known[inputs[name]])
            ours, theirs = own.where(inputs[mask] > 0, -2), inputs[TEACHER + name].where(inputs[TEACHER + mask] > 0, -2)
            room = max(ours.shape[1], theirs.shape[1])
            a, b = (F.pad(side, (0, room - side.shape[1]), value=-2) for side in (ours, theirs))
            found &= (a == b).all(1)
        return found

    @functools.cached_property
    def teacher_tokens(self) -> Tensor | None:
        """Of each of the student's tokens the teacher's, int64 [vocabulary], -1 where it has none; None: they are the same."""
        if self.teacher is None:
            return None
        ours, theirs = (loaded(side.tokenizer).tokenizer.get_vocab() for side in (self._reader, self.teacher))
        pieces = {index: piece for piece, index in ours.items()}
        return torch.tensor([theirs.get(pieces.get(index, ""), -1) for index in range(max(pieces) + 1)])

    def raw(self, row: int) -> Item:
        """The text, or its parts."""
        return self._texts[row]

    def show(self, row: int) -> str:
        """The text."""
        return items.shown(self._texts[row], self._reader.reads)


def _one(reader: TextReader, teacher: TextReader, texts: Sequence[Item]) -> bool:
    """Whether both read the same tokens. Files of one vocabulary may differ, so language models' tokenizers are asked."""
    if reader.fingerprint == teacher.fingerprint:
        return True
    if reader.reads != "sequences" or reader.max_length != teacher.max_length:
        return False
    asked = [part for text in texts[:_ASKED] for part in ((text,) if isinstance(text, str) else text)]
    ours, theirs = (loaded(side.tokenizer).tokenizer for side in (reader, teacher))
    return compared(ours, theirs, [part for part in asked if isinstance(part, str)]).alike
