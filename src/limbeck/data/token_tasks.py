"""The tasks whose answers stand at tokens: a tag for each word, a span of a text."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from limbeck.data.batch import CLASS, NO_LABEL, Batch
from limbeck.data.items import spans_at, tags_at, texts_said, words_said
from limbeck.data.labels import log, spanned, tagged
from limbeck.data.task import ASKED, NEVER, Answered, Common, Reads, averaged
from limbeck.errors import DataError, LimbeckError


class Tags(Common):
    """A class for each word of a text: named entities, parts of speech. A word's first piece answers for it."""

    measure: ClassVar[str] = "word accuracy"
    auto: ClassVar[str] = "AutoModelForTokenClassification"
    reads: ClassVar[Reads] = "words"
    named: ClassVar[bool] = True
    outputs: ClassVar[str] = "tags"
    constant: ClassVar[str] = "always answering the commonest tag"
    metrics: ClassVar[tuple[str, ...]] = ("entity-f1", "f1-macro")

    name: Literal["tags"] = "tags"

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, L, C]."""
        return rows, length, outputs

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """See `labels.tagged`."""
        return tagged(labels, where, names)

    def placed(self, labels: Tensor, places: Tensor) -> Tensor:
        """[N, L]; words that have no token are counted in the log."""
        placed = tags_at(labels, places)
        lost = int((labels >= 0).sum() - (placed >= 0).sum())
        if lost:
            log.warning(
                "%d of %d labelled words have no token of their own, mostly as they stand beyond 'max-length'",
                lost,
                int((labels >= 0).sum()),
            )
        return placed

    def strata(self, labels: Tensor) -> Tensor:
        """All rows alike."""
        return torch.where((labels >= 0).any(1), 0, NO_LABEL)

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``class``, int64 [B, L]; ``NO_LABEL`` at padding and where no word begins."""
        labels = labels[:, :length]
        seen = supervised[:, None] | (labels == NO_LABEL)
        return {CLASS: torch.where(seen, labels, ASKED)}

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B, width of ``labels``]."""
        said = torch.full_like(labels, NO_LABEL)
        said[:, : logits.shape[1]] = logits.argmax(-1)[:, : labels.shape[1]]
        return said.where(labels != NO_LABEL, NO_LABEL)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax, at each token."""
        return logits.softmax(-1)

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """A list of (word, tag); ``""`` for a word without a token."""
        return words_said(labels, items, _known(places), names)

    def scores(self, answered: Answered) -> Tensor:
        """The share of each text's words that are right."""
        return averaged((answered.logits.argmax(-1) == answered.labels).double(), answered)

    def floor(self, labels: Tensor) -> float:
        """The mean over texts of the best single tag's share."""
        words = (labels >= 0).sum(1).clamp_min(1).double()
        shares = [((labels == tag).sum(1) / words).mean() for tag in range(int(labels.max()) + 1)]
        return float(max(shares))


class Spans(Common):
    """Where the answer to a question stands in a text: its first and its last token, each a choice among the text's.

    Labels, int64 [N, 4]: first, last, and the bounds of the text [begin, end) among the tokens. A question without an
    answer has 0 as both, the place of the first special token.
    """

    measure: ClassVar[str] = "F1"
    auto: ClassVar[str] = "AutoModelForQuestionAnswering"
    reads: ClassVar[Reads] = "questions"
    constant: ClassVar[str] = "never finding an answer"
    metrics: ClassVar[tuple[str, ...]] = ("exact-match",)

    name: Literal["spans"] = "spans"

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, L, 2]: first and last."""
        return rows, length, 2

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """See `labels.spanned`; the names of the two outputs are fixed."""
        return spanned(labels, where), ("first", "last")

    def placed(self, labels: Tensor, places: Tensor) -> Tensor:
        """[N, 4]; answers that were cut off are counted in the log, and their questions have none."""
        placed, lost = spans_at(labels, places)
        if bool(lost.any()):
            log.warning(
                "%d of %d answers stand beyond 'max-length', so that as their texts are read they are not there: raise it",
                int(lost.sum()),
                int((labels[:, 1] > 0).sum()),
            )
        return placed

    def strata(self, labels: Tensor) -> Tensor:
        """Questions with an answer, and without."""
        return torch.where(labels[:, 0] < 0, NO_LABEL, (labels[:, 1] > 0).long())

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``class``, int64 [B, 2], and ``text``, int64 [B, 2]: its bounds."""
        if labels.shape[1] != 4:
            raise DataError(
                "Of inputs that are tokens already a span is four numbers: the first and the last token of the answer, and "
                "the bounds of the text among the tokens."
            )
        ends = labels[:, :2]
        return {CLASS: torch.where(supervised[:, None] & (ends >= 0), ends, ASKED), "text": labels[:, 2:]}

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """[B, 2, L]; tokens outside the text, but for the first special one, cannot be chosen."""
        return _within(logits, batch.labels["text"])

    def logits(self, answers: Tensor) -> Tensor:
        """[B, length, 2] of [B, 2, length]."""
        return answers.transpose(1, 2)

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B, 4]."""
        return torch.cat([_within(logits, labels[:, 2:]).argmax(-1), labels[:, 2:]], 1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Refused: the choices are tokens of one's own text."""
        raise LimbeckError("Of spans there are logits for each token, but no probabilities of classes: use logits().")

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """The letters of the answer, ``""`` where there is none."""
        return texts_said(labels, items, _known(places))

    def scores(self, answered: Answered) -> Tensor:
        """F1 of the tokens of each span (Rajpurkar et al. 2016); a last token before the first is an empty span."""
        said, true = answered.logits.argmax(-1).view(-1, 2), answered.labels.view(-1, 2)
        first, last = torch.maximum(said, true)[:, 0], torch.minimum(said, true)[:, 1]
        both = (last - first + 1).clamp_min(0)
        ours, theirs = ((one[:, 1] - one[:, 0] + 1).clamp_min(0) for one in (said, true))
        found = (2 * both / (ours + theirs).clamp_min(1)).double()
        result = torch.zeros(answered.examples, dtype=torch.float64, device=found.device)
        result[answered.example.view(-1, 2)[:, 0]] = found
        return result

    def floor(self, labels: Tensor) -> float:
        """The share of questions without an answer."""
        return float((labels[:, :2] == 0).all(1).double().mean())


def _within(logits: Tensor, text: Tensor) -> Tensor:
    """Logits of spans as [B, 2, L], of which none but those of ``text`` (bounds, int64 [B, 2]) and token 0 can be chosen."""
    place = torch.arange(logits.shape[1], device=logits.device)
    begin, end = text.unbind(1)
    inside = (place >= begin[:, None]) & (place < end[:, None]) | (place == 0)
    return logits.where(inside.unsqueeze(-1), NEVER).transpose(1, 2)


def _known(places: Tensor | None) -> Tensor:
    if places is None:
        raise LimbeckError(
            "This student was trained on tokens, and nothing tells which words these are of: use logits()."
        )
    return places
