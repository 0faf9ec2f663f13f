"""Terms that make a student see two domains alike. They read no teacher, and rows without a label as well."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import DOMAIN, REAL, Batch
from limbeck.errors import SignalError
from limbeck.objective.pairs import pooled, tokens_that_count
from limbeck.objective.parts.discriminator import Discriminator
from limbeck.objective.schedules import Place, WarmUp
from limbeck.objective.temperatures import Share, reversed_gradient
from limbeck.objective.term import About, Needs, Owned, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer


class AcrossDomains(Weighted):
    """A term over one layer of the student, and what each row is from."""

    looks_at: ClassVar[str] = "one layer of the student, and domains"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.EXPECTATIONS
    zero_at_match: ClassVar[bool] = False

    student: str
    """The student's module by its path (``head:in`` for the input of its head), or ``hidden.N``."""

    def needs(self) -> Needs:
        """The layer."""
        return Needs(frozenset({self.student}))

    def vectors(self, student: Signals, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
        """A vector a row, pooled over positions, [B, d]; and which rows are from the domain whose name comes later, bool [B].

        Raises:
            SignalError: the data names no domains, or more than two.
        """
        if DOMAIN not in batch.labels:
            raise SignalError(
                f"The term {name!r} compares two domains, and the data does not say what rows are from: give a "
                "text file a column 'domain', or join two sources by 'source: across'."
            )
        domains = batch.labels[DOMAIN]
        if int(domains.max()) > 1:
            raise SignalError(f"The term {name!r} compares two domains, and the data has more.")
        value = student[self.student]
        return pooled(value, tokens_that_count(batch, "student", value)), domains == 1


class Coral(AcrossDomains):
    """Features of both domains are to vary alike (Deep CORAL, Sun & Saenko 2016). Zero where a batch has one domain alone."""

    about: ClassVar[About] = About(
        "relations",
        "Sun & Saenko 2016, arXiv:1607.01719",
        "squared distance of covariances, by four times the square of the width; over the batch",
        "labels of one domain alone, for another that looks different: first of all, as it has nothing to tune",
    )
    scope: ClassVar[Scope] = "batch"

    name: Literal["coral"] = "coral"

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing."""
        return None

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.coral`."""
        vectors, later = self.vectors(student, batch, self.name)
        if min(int(later.sum()), int((~later).sum())) < 2:
            return vectors.sum() * 0.0
        return losses.coral(vectors[~later], vectors[later])


class DomainAdversarial(AcrossDomains):
    """A discriminator learns which domain a row is from, and the student to make features that do not tell it (DANN).

    Both learn in one step: between them the gradient changes its sign (Ganin et al. 2016).
    """

    about: ClassVar[About] = About(
        "adversarial",
        "Ganin et al. 2016, arXiv:1505.07818",
        "cross-entropy of the discriminator, mean over examples",
        "two domains that differ in more than second moments; batches with both, and a weight found on validation",
    )
    scope: ClassVar[Scope] = "example"

    name: Literal["domain-adversarial"] = "domain-adversarial"
    strength: Share = WarmUp(schedule="warm-up", value=1.0, share=0.3)
    """What the student's gradient is multiplied with, beside -1; the paper's rises from 0 to 1 as a sigmoid does."""
    width: Annotated[int, Field(ge=1)] = 128
    """Of the discriminator's hidden layers."""
    owned: Owned = Owned(weight_decay=0.0)
    """How the discriminator is optimised."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The discriminator."""
        return Discriminator(pooled(student[self.student]).shape[1], self.width)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.domain_cross_entropy`."""
        assert isinstance(part, Discriminator)
        vectors, later = self.vectors(student, batch, self.name)
        scores = part(reversed_gradient(vectors, -self.strength.at(place)))
        return losses.domain_cross_entropy(scores, later)
