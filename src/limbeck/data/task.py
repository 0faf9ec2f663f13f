"""`Task`: what is asked of an example.

Most tasks are choices: an example has one or more answers, each one of C. Others have numbers as answers, or vectors. Terms
between logits see answers, so they are written once for all tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.config import Config
from limbeck.data.batch import CLASS, NO_LABEL, REAL, SUPERVISED, VALUE, Batch
from limbeck.errors import SignalError

ASKED = -1
"""In place of a label: there is an answer here, but the label is not to be seen. ``NO_LABEL``: there is none."""
NEVER = -1e4
"""The logit of what cannot be chosen: its probability is 0 at any usual temperature."""
Reads = Literal["texts", "words", "questions", "pairs", "sequences", "sources"]
"""What an input of text is: a text or a pair of texts; the words of one; a question and a text; two texts, each by itself; a text
to go on with, a prompt and its continuation, or the messages of a chat; a text and what it is to be turned into."""
Gives = Literal["choices", "numbers", "vectors", "tokens"]
"""What answers are: each one of C; numbers; a vector, which says something only beside other vectors of the same model; one of so
many tokens that logits come in a storage."""


@runtime_checkable
class Task(Protocol):
    """What is asked of an example.

    ``measure``: what the mean of `scores` is called; 1 is perfect. ``cost``: what the mean of `costs` is called. ``auto``:
    the class of the transformers library for it. ``new_head``: such a model gets a head for the answers; else it gives what it
    was made to give, vectors or tokens. ``causal``: what it gives at a token may not depend on later ones. ``single``: an
    example has one answer. ``gives``: what answers are; the score of vectors depends on all that are scored together.
    ``reads``: what its texts are, see `at_tokens`. ``named``: the names of a model's outputs are those of the choices; else of
    an example's answers. ``outputs``: what such names are, in the plural; empty where no reader asks for them. ``constant``:
    what `floor` is the score of, in words. ``metrics``: further ones that suit it, by the names of `limbeck.evidence.metrics`.
    """

    measure: ClassVar[str]
    cost: ClassVar[str]
    auto: ClassVar[str]
    new_head: ClassVar[bool]
    causal: ClassVar[bool]
    single: ClassVar[bool]
    gives: ClassVar[Gives]
    reads: ClassVar[Reads]
    named: ClassVar[bool]
    outputs: ClassVar[str]
    constant: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """As it is written in a recipe."""
        ...

    @property
    def heads(self) -> "Mapping[str, Head]":
        """Where several things are asked of an example, each with outputs of its own: those by name, in order. Else none."""
        ...

    def asking(self, names: Sequence[str]) -> "Task":
        """The task of a model whose outputs have these names, as `read` gave them."""
        ...

    def headed(self, batch: Batch, head: str) -> Batch:
        """The batch as one of the task ``classes``, of which nothing but this head is asked."""
        ...

    def labels_of(self, labels: Tensor, head: str) -> Tensor:
        """Of labels [N, ...] those that this head is asked for, as classes, int64 [N]."""
        ...

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """The shape of a model's logits, -1 where any size will do; ``length``: of the longest text of the batch."""
        ...

    def head(self) -> dict[str, Any]:
        """What the config of a transformers model says about it, beside the names of its outputs."""
        ...

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """A source's labels as [N, ...], and the names of a model's outputs; see `limbeck.data.labels`.

        Raises:
            DataError: one is of another kind. ``where``: the source, for the message.
        """
        ...

    def placed(self, labels: Tensor, places: Tensor) -> Tensor:
        """What `read` gave, at tokens: ``places`` is int64 [N, L, 2], see `limbeck.data.items.places`."""
        ...

    def strata(self, labels: Tensor) -> Tensor:
        """What parts are balanced by, int64 [N]; ``NO_LABEL`` for rows without a label."""
        ...

    def without_labels(self, rows: int) -> Tensor:
        """What `read` would give for rows of text that nobody labelled, [rows]."""
        ...

    def taken(self, answers: Tensor, place: Tensor) -> Tensor:
        """Rows of `answers`, where examples have several: ``place`` is int64 [M], in [B x K]."""
        ...

    def kept(self, answers: Tensor, rows: Batch) -> Tensor:
        """What evidence keeps of the answers, a row each, [M, ...]."""
        ...

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """A batch's labels by column, from those of its rows; hidden where not ``supervised`` (bool [B])."""
        ...

    def rows(self, batch: Batch) -> "tuple[Batch, Tensor | None]":
        """The batch with one row an answer, and where those stand in [B x K]; None: one an example, in order."""
        ...

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """A model's logits as [B, C], or [B, K, C] of K answers an example."""
        ...

    def logits(self, answers: Tensor) -> Tensor:
        """A model's logits of which `answers` makes these, [B, C] or [B, K, C]."""
        ...

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A model's answers in the form of labels. ``labels``: of these rows, known or not; they say where answers stand."""
        ...

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of all choices, in the shape of the logits.

        Raises:
            LimbeckError: the answers have none of that shape.
        """
        ...

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """Answers of `hard` in plain values, one an item. ``places``: of the items' tokens; None: nobody knows.

        Raises:
            LimbeckError: the places are needed.
        """
        ...

    def scores(self, answered: "Answered") -> Tensor:
        """How good each example's answers are, float64 [E], at most 1; of choices at least 0."""
        ...

    def costs(self, answered: "Answered") -> Tensor:
        """What each answer costs, [M], of vectors each example, [E]; what validation decides ties by."""
        ...

    def floor(self, labels: Tensor) -> float:
        """The mean score of the best answer that is the same for every example. ``labels``: [N, ...], all known."""
        ...


@dataclass(frozen=True)
class Head:
    """Outputs [``start``, ``stop``) of a model that answer one of several things: ``name``, among ``classes``.

    ``place``: which of an example's answers it is.
    """

    name: str
    place: int
    start: int
    stop: int
    classes: tuple[str, ...]


class Common(Config):
    """What most tasks have in common: a model's output is its answers, and labels stand as they were read."""

    cost: ClassVar[str] = "nll"
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    new_head: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    single: ClassVar[bool] = False
    gives: ClassVar[Gives] = "choices"
    reads: ClassVar[Reads] = "texts"
    named: ClassVar[bool] = False
    outputs: ClassVar[str] = ""

    @property
    def heads(self) -> Mapping[str, "Head"]:
        """None: one thing is asked."""
        return {}

    def asking(self, names: Sequence[str]) -> Self:
        """Itself."""
        return self

    def headed(self, batch: Batch, head: str) -> Batch:
        """Refused: see `heads`."""
        raise KeyError(head)

    def labels_of(self, labels: Tensor, head: str) -> Tensor:
        """Refused: see `heads`."""
        raise KeyError(head)

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, outputs]."""
        return rows, outputs

    def head(self) -> dict[str, Any]:
        """Nothing: it is what such models are for."""
        return {}

    def placed(self, labels: Tensor, places: Tensor) -> Tensor:
        """The labels themselves: they do not stand at tokens."""
        return labels

    def rows(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """A row for each place with a label, asked or seen; the batch itself where an example has one answer."""
        return (batch, None) if self.single else several(batch)

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """The output itself."""
        return logits

    def logits(self, answers: Tensor) -> Tensor:
        """The answers themselves."""
        return answers

    def without_labels(self, rows: int) -> Tensor:
        """``NO_LABEL``."""
        return torch.full((rows,), NO_LABEL)

    def taken(self, answers: Tensor, place: Tensor) -> Tensor:
        """The rows of [B, K, C]."""
        return answers.flatten(0, 1)[place]

    def kept(self, answers: Tensor, rows: Batch) -> Tensor:
        """The answers themselves."""
        return answers

    def costs(self, answered: "Answered") -> Tensor:
        """The negative log-likelihood of each answer, nats; of numbers their mean squared error."""
        return costs(answered.logits, answered.labels)


@dataclass(frozen=True)
class Answered:
    """Answers of which the truth is known: what scores are made of.

    ``logits``: [M, C]. ``labels``: int64 [M], of numbers float [M, d]. ``example``: int64 [M], whose answer it is, from 0 to
    ``examples`` - 1. ``spread``: of numbers, the mean square of the labels' distance from their mean; else 1.
    """

    logits: Tensor
    labels: Tensor
    example: Tensor
    examples: int
    spread: float = 1.0


def at_tokens(task: Task) -> bool:
    """Whether the answers stand at tokens of a text."""
    return task.reads in ("words", "questions")


def one_each(task: Task, batch: Batch, *sides: Mapping[str, Tensor]) -> tuple[Batch, list[dict[str, Tensor]]]:
    """The batch and the logits of both sides with a row for each answer.

    ``sides``: ``logits`` by that name, and others that a model gave for the same examples.

    Raises:
        SignalError: the sides have logits for other places, as with two tokenizers; or there are others than ``logits``,
            which take each row as one choice, in a task that takes them otherwise.
    """
    rows, place = task.rows(batch)
    shapes = {tuple(logits.shape[:-1]) for side in sides for logits in side.values()}
    if place is not None and len(shapes) > 1:
        raise SignalError(
            f"Student and teacher answer at other places of an example (logits {' and '.join(map(str, shapes))}): with two "
            "tokenizers tokens do not line up. Give the student the teacher's tokenizer, or compare whole texts."
        )
    found: list[dict[str, Tensor]] = []
    for side in sides:
        answers = {name: task.answers(logits, batch) for name, logits in side.items()}
        for name in sorted(answers.keys() - {"logits"}):
            if answers[name].shape != side[name].shape:
                raise SignalError(
                    f"{name!r} takes each row of a model's logits as one choice among classes, and in the task {task.name!r} "
                    "they are other choices: use soft-targets, which compares them as they are."
                )
        found.append({name: one if place is None else task.taken(one, place) for name, one in answers.items()})
    return rows, found


def answered(task: Task, logits: Tensor, batch: Batch, spread: float = 1.0) -> Answered:
    """The answers of a batch that have a label."""
    rows, place = task.rows(batch)
    _, (side,) = one_each(task, batch, {"logits": logits})
    found, example = task.kept(side["logits"], rows).float().cpu(), torch.arange(len(batch))
    rows = rows.to("cpu")
    if place is not None:
        example = place.cpu() // batch.labels[CLASS].shape[1]
    labels = rows.labels.get(VALUE, rows.labels.get(CLASS))
    assert labels is not None
    known = rows.masks[SUPERVISED]
    return Answered(found[known], labels[known], example[known], len(batch), spread)


def joined(parts: Sequence[Answered]) -> Answered:
    """The answers of several batches, one after another. Missing choices of the shorter ones cannot be chosen."""
    width, before = max(part.logits.shape[-1] for part in parts), 0
    logits, examples = [], []
    for part in parts:
        logits.append(F.pad(part.logits, (0, width - part.logits.shape[-1]), value=NEVER))
        examples.append(part.example + before)
        before += part.examples
    labels = torch.cat([part.labels for part in parts])
    return Answered(torch.cat(logits), labels, torch.cat(examples), before, parts[0].spread)


def rank(task: Task, metrics: Mapping[str, float]) -> tuple[float, float]:
    """What is better sorts higher: by the measure, ties by the cost."""
    return metrics[task.measure], -metrics[task.cost]


def costs(logits: Tensor, labels: Tensor) -> Tensor:
    """What each answer costs, [M]: of choices the negative log-likelihood, nats; of numbers the mean squared error."""
    if labels.is_floating_point():
        return (logits - labels).square().mean(-1)
    return F.cross_entropy(logits, labels, reduction="none")


def several(batch: Batch) -> tuple[Batch, Tensor]:
    """`Task.rows` where ``class`` is int64 [B, K]: a row for each place with an answer."""
    labels = batch.labels[CLASS]
    place = ((labels != NO_LABEL) & batch.masks[REAL][:, None]).flatten().nonzero()[:, 0]
    example, flat = place // labels.shape[1], labels.flatten()[place]
    masks = {REAL: torch.ones_like(flat, dtype=torch.bool), SUPERVISED: flat >= 0}
    found = replace(
        batch, inputs={}, labels={CLASS: flat}, masks=masks, ids=batch.ids[example], views=batch.views[example]
    )
    return found, place


def summed(values: Tensor, answered: Answered) -> Tensor:
    """The sum of [M] over each example's answers, float64 [E]."""
    total = torch.zeros(answered.examples, dtype=torch.float64, device=values.device)
    return total.index_add_(0, answered.example, values)


def averaged(values: Tensor, answered: Answered) -> Tensor:
    """The mean of [M] over each example's answers, float64 [E]; 0 where it has none."""
    return summed(values, answered) / summed(torch.ones_like(values), answered).clamp_min(1)
