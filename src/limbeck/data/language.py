"""The tasks of language models: at each token of a text, which one is next."""

from collections.abc import Sequence
from dataclasses import replace
from math import log
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor

from limbeck.data.batch import CLASS, GIVEN, NO_LABEL, REAL, SUPERVISED, WRITTEN, Batch
from limbeck.data.task import ASKED, Answered, Common, Gives, Reads, several, summed
from limbeck.errors import LimbeckError
from limbeck.losses.storages import Storage, judged, stored

BYTES: Final = "bytes"
"""The column of labels that says how many bytes of the text each next token stands for, int64 [B, L]."""
SAMPLED: Final = "sampled"
"""The column of labels that says with what log-probability each next token was drawn, float32 [B, L], where texts are written."""
TEXT: Final = "text"
"""Of the rows of answers, which example of the batch each is of, int64 [M], ascending."""
_RAW: Final = 8 * log(2)  # nats that a byte takes as it is


class Foreseeing(Common):
    """What the tasks of language models have in common: which token is next, at many places of a text.

    The score is compression: 1 less the bits that a byte of the text takes, divided by 8. It is 0 for a model that saves
    nothing, 1 for one that foresees everything, and the same for models of any tokenizer; 0.01 of it are 0.08 bits per byte.

    What is kept of an answer, [M, 5]: the log-probability of the next token, whether it was the likeliest, the probability and
    the number of the likeliest, and the bytes that the token stands for.
    """

    measure: ClassVar[str] = "compression"
    new_head: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    gives: ClassVar[Gives] = "tokens"
    constant: ClassVar[str] = "storing the text as it is"
    metrics: ClassVar[tuple[str, ...]] = ("bits-per-byte", "perplexity")

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, L, V] of any V."""
        return rows, length, -1

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """A text is its own label; what a source calls one is not looked at."""
        return self.without_labels(len(labels)), ()

    def without_labels(self, rows: int) -> Tensor:
        """Known, every one."""
        return torch.zeros(rows, dtype=torch.int64)

    def strata(self, labels: Tensor) -> Tensor:
        """All rows alike."""
        return torch.zeros(len(labels), dtype=torch.int64)

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``class`` and ``bytes``, int64 [B, L], of [B, L, 2]; ``NO_LABEL`` where no token follows that counts."""
        following, size = labels[:, :length].long().unbind(2)
        seen = supervised[:, None] | (following == NO_LABEL)
        return {CLASS: torch.where(seen, following, ASKED), BYTES: size}

    def rows(self, batch: Batch) -> tuple[Batch, Tensor]:
        """A row for each token that is to be foreseen; of a text that was written here nobody saw a label."""
        found, place = several(batch)
        text = place // batch.labels[CLASS].shape[1]
        columns = {name: batch.labels[name].flatten()[place] for name in (BYTES, SAMPLED) if name in batch.labels}
        written = batch.masks.get(WRITTEN, torch.zeros_like(batch.masks[REAL]))[text]
        seen = found.masks[SUPERVISED] & ~written
        masks = {**found.masks, SUPERVISED: seen, WRITTEN: written, GIVEN: ~written}
        return replace(found, labels={**found.labels, **columns, TEXT: text}, masks=masks), place

    def answers(self, logits: Any, batch: Batch) -> Any:
        """The logits in the storage that they come in."""
        return stored(logits)

    def taken(self, answers: Any, place: Tensor) -> Any:
        """The rows of a storage."""
        found: Storage = answers.at(place)
        return found

    def kept(self, answers: Any, rows: Batch) -> Tensor:
        """See above, float32 [M, 5]."""
        return torch.cat([judged(answers, rows.labels[CLASS]), rows.labels[BYTES][:, None].float()], 1)

    def hard(self, logits: Any, labels: Tensor) -> Tensor:
        """Refused: hard labels of a language model are texts."""
        raise LimbeckError("A language model's hard answers are the texts that it writes, not the likeliest tokens.")

    def probabilities(self, logits: Any) -> Tensor:
        """Refused: there is one of every token at every place."""
        raise LimbeckError(
            "A language model gives probabilities at every token: use logits(), a part of the texts at a time."
        )

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """Refused, as `hard`."""
        raise LimbeckError("A language model says what it writes: use generate().")

    def scores(self, answered: Answered) -> Tensor:
        """1 less the bits of each text by 8 times the bytes of the mean text, so that their mean is that of all bytes."""
        nats, sizes = (
            summed(one, answered) for one in (-answered.logits[:, 0].double(), answered.logits[:, 4].double())
        )
        return 1 - nats / (_RAW * sizes.mean().clamp_min(1))

    def costs(self, answered: Answered) -> Tensor:
        """The negative log-likelihood of each token, nats."""
        return -answered.logits[:, 0]

    def floor(self, labels: Tensor) -> float:
        """0, by definition."""
        return 0.0


class NextToken(Foreseeing):
    """The next token, at every token of a text; of a prompt and its continuation, at those of the continuation."""

    auto: ClassVar[str] = "AutoModelForCausalLM"
    reads: ClassVar[Reads] = "sequences"

    name: Literal["next-token"] = "next-token"


class TextToText(Foreseeing):
    """Of a text that another is to be turned into, each token, the ones before it given: translation, summaries and the like."""

    auto: ClassVar[str] = "AutoModelForSeq2SeqLM"
    reads: ClassVar[Reads] = "sources"

    name: Literal["text-to-text"] = "text-to-text"
