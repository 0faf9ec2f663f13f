"""What the terms between two logits, and those between two layers, have in common."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from limbeck.data.batch import ALIKE, CLASS, REAL, TOKENS, Batch
from limbeck.errors import SignalError
from limbeck.objective.schedules import Fixed
from limbeck.objective.temperatures import Temperature
from limbeck.objective.term import Layers, Match, Needs, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer


class Answers(Weighted):
    """A term between both sides' logits."""

    looks_at: ClassVar[str] = "the logits of both sides"
    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.MATRIX

    temperature: Temperature = Fixed(value=4.0)
    """T."""

    def needs(self) -> Needs:
        """Both sides' logits."""
        return Needs(frozenset({"logits"}), frozenset({"logits"}))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The temperature, if it is learned. Both sides must have the same classes."""
        same_classes(student, teacher)
        return self.temperature.build()


def same_classes(student: Signals, teacher: Signals) -> None:
    """Both logits must have equally many classes.

    Raises:
        SignalError: they have not.
    """
    ours, theirs = student["logits"].shape[-1], teacher["logits"].shape[-1]
    if ours != theirs:
        raise SignalError(
            f"The student has {ours} classes and the teacher {theirs}: soft targets need the same classes in the "
            "same order. Give the student the teacher's classes, or a teacher trained on yours."
        )


class Paired(Weighted):
    """A term between a layer of the student and one of the teacher; with ``layers`` it stands for one term a pair.

    Each pair has the whole weight.
    """

    looks_at: ClassVar[str] = "one layer of each side"
    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.EXPECTATIONS

    student: str | None = None
    """The student's module by its path (``stages.1``; ``path:in`` for its input), or ``hidden.N``."""
    teacher: str | None = None
    """The teacher's module, likewise."""
    layers: Layers | dict[str, str] | None = None
    """In place of the two: pairs ``{student's: teacher's}``, or a rule that finds them: ``uniform`` (evenly spaced),
    ``last`` (the last ones, end to end), ``similarity`` (by measured linear CKA, in order)."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        named = [one for one in (self.student, self.teacher) if one is not None]
        if (len(named) == 2) == (self.layers is not None) or len(named) == 1:
            raise ValueError("give student and teacher, or layers")
        if self.layers is not None and not self.layers:
            raise ValueError("layers is empty")
        return self

    def resolved(self, match: Match) -> tuple[Self, ...]:
        """One term for each pair of layers."""
        if self.layers is None:
            return (self,)
        pairs = list(self.layers.items()) if isinstance(self.layers, dict) else match(self.layers)
        return tuple(self.model_copy(update={"student": a, "teacher": b, "layers": None}) for a, b in pairs)

    @property
    def pair(self) -> tuple[str, str]:
        """The names of the two layers.

        Raises:
            SignalError: they are not resolved yet.
        """
        if self.student is None or self.teacher is None:
            raise SignalError(
                "Layers are found when both models are known: `limbeck.objective.matched(terms, ...)` does it."
            )
        return self.student, self.teacher

    def needs(self) -> Needs:
        """One signal from each side."""
        ours, theirs = self.pair
        return Needs(frozenset({ours}), frozenset({theirs}))

    def sides(self, student: Signals, teacher: Signals) -> tuple[Tensor, Tensor]:
        """The two features."""
        ours, theirs = self.pair
        return student[ours], teacher[theirs]


def tokens_that_count(batch: Batch, side: Literal["student", "teacher"], value: Tensor) -> Tensor | None:
    """The positions of a feature that count, [B, L]; None where it has no position for each token."""
    own = batch.inputs.get(f"{side}.attention_mask")
    mask = batch.masks.get(TOKENS) if own is None else own.bool()
    return mask if mask is not None and value.ndim == 3 and mask.shape == value.shape[:2] else None


def both_that_count(batch: Batch, name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """`tokens_that_count` of both sides, for a term of this name that compares them position by position.

    Raises:
        SignalError: both have a position for each token, and read other tokens.
    """
    seen, shown = tokens_that_count(batch, "student", student), tokens_that_count(batch, "teacher", teacher)
    if seen is not None and shown is not None:
        demand_the_same_tokens(batch, name)
    return seen, shown


def demand_the_same_tokens(batch: Batch, name: str) -> None:
    """The term of this name compares tokens with each other.

    Raises:
        SignalError: the teacher reads other tokens than the student.
    """
    ours, theirs = batch.inputs.get("input_ids"), batch.inputs.get("teacher.input_ids")
    if theirs is None or (ALIKE in batch.masks and bool(batch.masks[ALIKE].all())):
        return
    if ours is not None and torch.equal(ours, theirs):
        return
    raise SignalError(
        f"The term {name!r} compares token by token, and student and teacher cut the texts into tokens with two tokenizers, so "
        "that the same position is another word: give the student the teacher's tokenizer (leave out data.tokenizer), or "
        "compare answers, relations between examples, or the first token alone (hints with tokens: first)."
    )


def demand_one_tokenizer(batch: Batch, name: str) -> None:
    """The term of this name compares what both sides say of each next token.

    Raises:
        SignalError: the teacher has a tokenizer of its own.
    """
    if "teacher.input_ids" not in batch.inputs:
        return
    raise SignalError(
        f"The term {name!r} compares next tokens one by one, and student and teacher cut the texts into tokens with two "
        "tokenizers: use uld, shared-vocabulary or alm, which are made for that; let the teacher write texts that the student "
        "learns as its labels (regime: sequence-level); or give the student the teacher's tokenizer (leave out data.tokenizer)."
    )


def classes_of(batch: Batch, name: str) -> Tensor:
    """Labels as one class an example, int64 [B].

    Raises:
        SignalError: they are mixed (mixup), and the term needs one class.
    """
    labels = batch.labels[CLASS]
    if labels.is_floating_point():
        raise SignalError(f"The term {name!r} needs one class an example, and mixup mixes classes: leave it out.")
    return labels


def maps_only(name: str, value: Tensor) -> None:
    """The term of this name takes maps.

    Raises:
        SignalError: it was given something else.
    """
    if value.ndim != 4:
        raise SignalError(f"The term {name!r} needs maps [batch, channels, height, width], not {list(value.shape)}.")


def pooled(value: Tensor, mask: Tensor | None = None) -> Tensor:
    """One vector an example, [B, d]: a map [B, C, H, W] or tokens [B, L, d] averaged over their positions.

    ``mask``: boolean [B, L], the tokens that count.
    """
    if value.ndim == 4:
        return value.mean((2, 3))
    if value.ndim != 3:
        return value.flatten(1)
    if mask is None:
        return value.mean(1)
    return torch.where(mask.unsqueeze(-1), value, 0.0).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
