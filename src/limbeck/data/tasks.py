"""The tasks: one class, several labels, a tag for each word, a span of a text, numbers; of `vectors`, a vector for each text."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from limbeck.config import Config
from limbeck.data.batch import CLASS, NO_LABEL, VALUE, Batch
from limbeck.data.items import spans_at, tags_at, texts_said, words_said
from limbeck.data.labels import flagged, log, measured, single, spanned, tagged
from limbeck.data.task import ASKED, NEVER, Answered, Gives, Reads, averaged, costs, several, summed
from limbeck.data.vectors import Vectors
from limbeck.errors import DataError, LimbeckError

_QUANTILES = 10


class Classes(Config):
    """One class an example."""

    measure: ClassVar[str] = "accuracy"
    cost: ClassVar[str] = "nll"
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    single: ClassVar[bool] = True
    gives: ClassVar[Gives] = "choices"
    reads: ClassVar[Reads] = "texts"
    named: ClassVar[bool] = True
    outputs: ClassVar[str] = "classes"
    constant: ClassVar[str] = "always answering the commonest class"
    metrics: ClassVar[tuple[str, ...]] = ("f1-macro", "f1-weighted", "balanced-accuracy", "mcc", "auroc", "top-5")

    name: Literal["classes"] = "classes"

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, C]."""
        return rows, outputs

    def head(self) -> dict[str, Any]:
        """Nothing: it is what such models are for."""
        return {}

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """See `labels.single`."""
        return single(labels, where, names)

    def placed(self, labels: Tensor, places: Tensor) -> Tensor:
        """The labels themselves: they do not stand at tokens."""
        return labels

    def strata(self, labels: Tensor) -> Tensor:
        """The classes."""
        return labels

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``class``, int64 [B]."""
        return {CLASS: torch.where(supervised, labels, NO_LABEL)}

    def rows(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """The batch itself."""
        return batch, None

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """The logits themselves."""
        return logits

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The class, int64 [B]."""
        return logits.argmax(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax."""
        return logits.softmax(-1)

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """The name of the class."""
        return [names[index] for index in labels.tolist()]

    def scores(self, answered: Answered) -> Tensor:
        """1 where it is right."""
        return averaged((answered.logits.argmax(-1) == answered.labels).double(), answered)

    def costs(self, answered: Answered) -> Tensor:
        """The negative log-likelihood of each answer, nats."""
        return costs(answered.logits, answered.labels)

    def floor(self, labels: Tensor) -> float:
        """The share of the commonest class."""
        return int(labels.bincount().max()) / len(labels)


class MultiLabel(Config):
    """Any number of labels an example, each a choice between no and yes."""

    measure: ClassVar[str] = "F1"
    cost: ClassVar[str] = "nll"
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    single: ClassVar[bool] = False
    gives: ClassVar[Gives] = "choices"
    reads: ClassVar[Reads] = "texts"
    named: ClassVar[bool] = False
    outputs: ClassVar[str] = "labels"
    constant: ClassVar[str] = "always giving the commonest labels"
    metrics: ClassVar[tuple[str, ...]] = ("f1-micro", "f1-macro", "subset-accuracy")

    name: Literal["multi-label"] = "multi-label"

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, K]: the log-odds of yes."""
        return rows, outputs

    def head(self) -> dict[str, Any]:
        """That each output is a choice of its own."""
        return {"problem_type": "multi_label_classification"}

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """See `labels.flagged`."""
        return flagged(labels, where, names)

    def placed(self, labels: Tensor, places: Tensor) -> Tensor:
        """The labels themselves: they do not stand at tokens."""
        return labels

    def strata(self, labels: Tensor) -> Tensor:
        """The rarest label of each row; one more for rows with none."""
        known = (labels >= 0).any(1)
        often = (labels == 1).sum(0)
        count = torch.where(labels == 1, often, len(labels) + 1)
        rarest = torch.where((labels == 1).any(1), count.argmin(1), labels.shape[1])
        return torch.where(known, rarest, NO_LABEL)

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``class``, int64 [B, K]: 0 or 1."""
        return {CLASS: torch.where(supervised[:, None] & (labels >= 0), labels, ASKED)}

    def rows(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """A row for each label."""
        return several(batch)

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """[B, K, 2]: the softmax over (0, z) is the sigmoid of z."""
        return torch.stack([torch.zeros_like(logits), logits], -1)

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """0 or 1, int64 [B, K]."""
        return (logits > 0).long()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of yes: the sigmoid."""
        return logits.sigmoid()

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """A list of the names that hold."""
        return [[name for name, holds in zip(names, row, strict=True) if holds] for row in labels.tolist()]

    def scores(self, answered: Answered) -> Tensor:
        """F1 of each example's labels; 1 where there are none and none is given."""
        said = (answered.logits.argmax(-1) == 1).double()
        true = (answered.labels == 1).double()
        both, ours, theirs = (summed(one, answered) for one in (said * true, said, true))
        return torch.where(ours + theirs > 0, 2 * both / (ours + theirs).clamp_min(1), 1.0)

    def costs(self, answered: Answered) -> Tensor:
        """The negative log-likelihood of each answer, nats."""
        return costs(answered.logits, answered.labels)

    def floor(self, labels: Tensor) -> float:
        """The best of: no label, the commonest one, the two commonest ones, and so on."""
        true = (labels == 1).double()
        ordered = true[:, true.sum(0).argsort(descending=True, stable=True)]
        given = torch.arange(1, labels.shape[1] + 1, dtype=torch.float64)
        each = 2 * ordered.cumsum(1) / (ordered.sum(1, keepdim=True) + given)
        return float(max((true.sum(1) == 0).double().mean(), each.mean(0).max()))


class Tags(Config):
    """A class for each word of a text: named entities, parts of speech. A word's first piece answers for it."""

    measure: ClassVar[str] = "word accuracy"
    cost: ClassVar[str] = "nll"
    auto: ClassVar[str] = "AutoModelForTokenClassification"
    single: ClassVar[bool] = False
    gives: ClassVar[Gives] = "choices"
    reads: ClassVar[Reads] = "words"
    named: ClassVar[bool] = True
    outputs: ClassVar[str] = "tags"
    constant: ClassVar[str] = "always answering the commonest tag"
    metrics: ClassVar[tuple[str, ...]] = ("entity-f1", "f1-macro")

    name: Literal["tags"] = "tags"

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, L, C]."""
        return rows, length, outputs

    def head(self) -> dict[str, Any]:
        """Nothing: it is what such models are for."""
        return {}

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

    def rows(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """A row for each word."""
        return several(batch)

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """The logits themselves."""
        return logits

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

    def costs(self, answered: Answered) -> Tensor:
        """The negative log-likelihood of each answer, nats."""
        return costs(answered.logits, answered.labels)

    def floor(self, labels: Tensor) -> float:
        """The mean over texts of the best single tag's share."""
        words = (labels >= 0).sum(1).clamp_min(1).double()
        shares = [((labels == tag).sum(1) / words).mean() for tag in range(int(labels.max()) + 1)]
        return float(max(shares))


class Spans(Config):
    """Where the answer to a question stands in a text: its first and its last token, each a choice among the text's.

    Labels, int64 [N, 4]: first, last, and the bounds of the text [begin, end) among the tokens. A question without an
    answer has 0 as both, the place of the first special token.
    """

    measure: ClassVar[str] = "F1"
    cost: ClassVar[str] = "nll"
    auto: ClassVar[str] = "AutoModelForQuestionAnswering"
    single: ClassVar[bool] = False
    gives: ClassVar[Gives] = "choices"
    reads: ClassVar[Reads] = "questions"
    named: ClassVar[bool] = False
    outputs: ClassVar[str] = ""
    constant: ClassVar[str] = "never finding an answer"
    metrics: ClassVar[tuple[str, ...]] = ("exact-match",)

    name: Literal["spans"] = "spans"

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, L, 2]: first and last."""
        return rows, length, 2

    def head(self) -> dict[str, Any]:
        """Nothing: it is what such models are for."""
        return {}

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

    def rows(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """A row for the first token, and one for the last."""
        return several(batch)

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """[B, 2, L]; tokens outside the text, but for the first special one, cannot be chosen."""
        return _within(logits, batch.labels["text"])

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

    def costs(self, answered: Answered) -> Tensor:
        """The negative log-likelihood of each answer, nats."""
        return costs(answered.logits, answered.labels)

    def floor(self, labels: Tensor) -> float:
        """The share of questions without an answer."""
        return float((labels[:, :2] == 0).all(1).double().mean())


class Numbers(Config):
    """One number an example, or several (regression). The score is what is explained of their variance (R squared)."""

    measure: ClassVar[str] = "R²"
    cost: ClassVar[str] = "mse"
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    single: ClassVar[bool] = True
    gives: ClassVar[Gives] = "numbers"
    reads: ClassVar[Reads] = "texts"
    named: ClassVar[bool] = False
    outputs: ClassVar[str] = ""
    constant: ClassVar[str] = "always answering the mean"
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mae", "rmse")

    name: Literal["numbers"] = "numbers"

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, d]."""
        return rows, outputs

    def head(self) -> dict[str, Any]:
        """That outputs are numbers."""
        return {"problem_type": "regression"}

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """See `labels.measured`."""
        return measured(labels, where, names)

    def placed(self, labels: Tensor, places: Tensor) -> Tensor:
        """The labels themselves: they do not stand at tokens."""
        return labels

    def strata(self, labels: Tensor) -> Tensor:
        """The tenth of the rows that the first number is in."""
        known = labels[:, 0].isfinite()
        inner = torch.arange(1, _QUANTILES, dtype=torch.float64) / _QUANTILES
        edges = torch.quantile(labels[known, 0].double(), inner) if bool(known.any()) else inner
        return torch.where(known, torch.bucketize(labels[:, 0].double().nan_to_num(), edges), NO_LABEL)

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``value``, float32 [B, d]; 0 where it is not to be seen. ``class`` says where it is."""
        known = supervised & labels.isfinite().all(1)
        return {
            VALUE: torch.where(known[:, None], labels, 0.0).float(),
            CLASS: torch.where(known, 0, NO_LABEL),
        }

    def rows(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """The batch itself."""
        return batch, None

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """The logits themselves."""
        return logits

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The numbers, float [B, d]."""
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Refused: numbers have none."""
        raise LimbeckError("Numbers have no probabilities: use predict() or logits().")

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """The number, or a tuple of them."""
        return [row[0] if len(row) == 1 else tuple(row) for row in labels.tolist()]

    def scores(self, answered: Answered) -> Tensor:
        """1 less the squared error by the mean square of the labels' distance from their mean."""
        errors = (answered.logits.double() - answered.labels.double()).square().mean(-1)
        return averaged(1 - errors / max(answered.spread, 1e-12), answered)

    def costs(self, answered: Answered) -> Tensor:
        """The mean squared error of each."""
        return costs(answered.logits, answered.labels)

    def floor(self, labels: Tensor) -> float:
        """0, by definition."""
        return 0.0


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


CLASSES = Classes()
TASKS: tuple[type[Config], ...] = (Classes, MultiLabel, Tags, Spans, Numbers, Vectors)
"""What a recipe's ``data.task`` may name."""
