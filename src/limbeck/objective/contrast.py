"""Learning to tell examples apart as the teacher does, or not to be told apart from it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import CLASS, Batch
from limbeck.errors import SignalError
from limbeck.objective.balance import Weight
from limbeck.objective.pairs import Paired, pooled, tokens_that_count
from limbeck.objective.parts.discriminator import Discriminator, adversarial_values
from limbeck.objective.parts.memory import ContrastMemory
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.term import About, Owned, Scope
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer

_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]


class Embedded(Paired):
    """A term between one vector an example of each side."""

    zero_at_match: ClassVar[bool] = False

    def vectors(self, student: Signals, teacher: Signals, batch: Batch | None) -> tuple[Tensor, Tensor]:
        """Both sides' features as vectors [B, d]; maps and tokens (those that count) are averaged."""
        ours, theirs = self.sides(student, teacher)
        seen = tokens_that_count(batch, "student", ours) if batch else None
        shown = tokens_that_count(batch, "teacher", theirs) if batch else None
        return pooled(ours, seen), pooled(theirs, shown)


class Contrastive(Embedded):
    """The teacher's vector of the same example among those of the batch (InfoNCE, van den Oord et al. 2018)."""

    about: ClassVar[About] = About(
        "relations",
        "van den Oord et al. 2018, arXiv:1807.03748; Tian et al. 2020, arXiv:1910.10699",
        "cross-entropy over the batch, mean over the batch",
        "penultimate vectors, with large batches; needs no memory",
    )
    scope: ClassVar[Scope] = "batch"

    name: Literal["contrastive"] = "contrastive"
    width: _Count = 128
    """Width of the space that both sides are embedded in."""
    temperature: _Positive = 0.07
    """What cosines are divided by."""
    other_classes: bool = False
    """Whether examples of the same class are left out of the negatives."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """A linear embedding of each side; both are trained."""
        ours, theirs = self.vectors(student, teacher, None)
        return nn.ModuleDict(
            {
                "student": nn.Linear(ours.shape[1], self.width),
                "teacher": nn.Linear(theirs.shape[1], self.width),
            }
        )

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.contrastive`."""
        assert isinstance(part, nn.ModuleDict)
        ours, theirs = self.vectors(student, teacher, batch)
        labels = batch.labels[CLASS]
        apart = labels if self.other_classes and not labels.is_floating_point() else None
        sides = part["student"](ours), part["teacher"](theirs.detach())
        return losses.contrastive(*sides, self.temperature, apart, symmetric=True, detach_teacher=False)


class Crd(Embedded):
    """The teacher's vector of the same example against thousands kept in a memory (CRD, Tian et al. 2020)."""

    about: ClassVar[About] = About(
        "relations",
        "Tian, Krishnan & Isola 2020, arXiv:1910.10699",
        "both directions summed, sum over negatives, mean over examples",
        "penultimate vectors; keeps two vectors for every training example",
    )
    name: Literal["crd"] = "crd"
    weight: Weight = Fixed(value=0.8)
    """A number or a schedule."""
    width: _Count = 128
    """Width of the space that both sides are embedded in."""
    negatives: _Count = 4096
    """For each example; the paper has 16384."""
    temperature: _Positive = 0.07
    """What cosines are divided by."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of a memory that stays when its example is seen."""
    other_classes: bool = False
    """Whether negatives are of other classes only ("exact" in the paper's code)."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Embeddings and memories."""
        if examples < 2:
            raise SignalError(
                f"The term {self.name!r} remembers every example: say how many there are, objective.build(..., examples=N)."
            )
        ours, theirs = self.vectors(student, teacher, None)
        return ContrastMemory(
            ours.shape[1],
            theirs.shape[1],
            examples,
            width=self.width,
            negatives=self.negatives,
            temperature=self.temperature,
            momentum=self.momentum,
        )

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.crd`."""
        assert isinstance(part, ContrastMemory)
        labels = batch.labels[CLASS]
        apart = labels if self.other_classes and not labels.is_floating_point() else None
        found: Tensor = part(*self.vectors(student, teacher, batch), batch.ids, apart)
        return found


class Adversarial(Embedded):
    """A discriminator learns to tell the sides apart, and the student to be taken for the teacher.

    Distributions are matched, not examples: have a term beside it that compares examples. Both learn in one step, where the
    original alternates.
    """

    about: ClassVar[About] = About(
        "adversarial",
        "Goodfellow et al. 2014, arXiv:1406.2661; Miyato et al. 2018, arXiv:1802.05957",
        "losses of both players, mean over examples",
        "a small weight beside a term that compares examples",
    )
    looks_at: ClassVar[str] = "one layer of each side, or the logits of both"
    reads: ClassVar[Offer] = Offer.MATRIX

    name: Literal["adversarial"] = "adversarial"
    weight: Weight = Fixed(value=0.1)
    """A number or a schedule."""
    width: _Count = 128
    """Of the discriminator's hidden layers."""
    owned: Owned = Owned(rate=0.2, weight_decay=0.0, betas=(0.5, 0.999))
    """How the discriminator is optimised."""

    def vectors(self, student: Signals, teacher: Signals, batch: Batch | None) -> tuple[Tensor, Tensor]:
        """As they are; widths must agree, for a projector could fool the discriminator in the student's place.

        Raises:
            SignalError: they do not.
        """
        ours, theirs = super().vectors(student, teacher, batch)
        if ours.shape != theirs.shape:
            raise SignalError(
                f"{self.pair[0]!r} of the student has {ours.shape[1]} numbers an example and {self.pair[1]!r} of the teacher "
                f"{theirs.shape[1]}: a discriminator needs the same. Name logits on both sides, or layers of one width."
            )
        return ours, theirs

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The discriminator."""
        ours, _ = self.vectors(student, teacher, None)
        return Discriminator(ours.shape[1], self.width)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.discriminator_loss` and `generator_loss`."""
        assert isinstance(part, Discriminator)
        return adversarial_values(part, *self.vectors(student, teacher, batch))
