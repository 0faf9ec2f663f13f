"""Finer comparisons of both sides' logits: decoupled, correlated, normalised, weighted, and with the student's own answers."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import SUPERVISED, Batch
from limbeck.objective.balance import Weight
from limbeck.objective.pairs import Answers, classes_of
from limbeck.objective.schedules import Fixed, Place, WarmUp
from limbeck.objective.temperatures import Scheduled, Share, Temperature
from limbeck.objective.term import About, Scope
from limbeck.signals.capture import Signals

_Share = Annotated[float, Field(ge=0)]


class Decoupled(Answers):
    """The target class and the other classes apart, each with a weight of its own (DKD, Zhao et al. 2022)."""

    about: ClassVar[About] = About(
        "responses",
        "Zhao et al. 2022, arXiv:2203.08679",
        "sum over classes times T^2, mean over the labelled examples",
        "a teacher so sure of the target that plain soft targets say little of the other classes",
    )
    mask: ClassVar[str] = SUPERVISED
    zero_at_match: ClassVar[bool] = True

    name: Literal["decoupled"] = "decoupled"
    alpha: _Share = 1.0
    """Weight of the target class against the rest."""
    beta: _Share = 8.0
    """Weight of the distribution among the rest."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.dkd`."""
        ours, theirs = student["logits"], teacher["logits"]
        temperature = self.temperature.of(place, theirs, part)
        return losses.dkd(ours, theirs, classes_of(batch, self.name), self.alpha, self.beta, temperature)


class Dist(Answers):
    """Correlations within each example and within each class, in place of equal probabilities (DIST, Huang et al. 2022)."""

    about: ClassVar[About] = About(
        "responses",
        "Huang et al. 2022, arXiv:2205.10536",
        "1 less the correlation, times T^2; over the batch",
        "a teacher much larger than the student: relations are easier to follow than values",
    )
    scope: ClassVar[Scope] = "batch"
    zero_at_match: ClassVar[bool] = True

    name: Literal["dist"] = "dist"
    weight: Weight = Fixed(value=2.0)
    """A number or a schedule."""
    beta: _Share = 1.0
    """Weight of the correlations within an example."""
    gamma: _Share = 1.0
    """Weight of the correlations within a class."""
    temperature: Scheduled = Fixed(value=4.0)
    """T; 1 for ImageNet."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.dist`."""
        ours, theirs = student["logits"], teacher["logits"]
        return losses.dist(ours, theirs, self.beta, self.gamma, self.temperature.at(place))


class Nkd(Answers):
    """The target's probability, and the normalised rest (NKD, Yang et al. 2023)."""

    about: ClassVar[About] = About(
        "responses",
        "Yang et al. 2023, arXiv:2303.13005",
        "cross-entropies summed over classes, mean over the labelled examples",
        "in place of soft targets where the target and the rest pull against each other",
    )
    mask: ClassVar[str] = SUPERVISED
    zero_at_match: ClassVar[bool] = False

    name: Literal["nkd"] = "nkd"
    gamma: _Share = 1.5
    """Weight of the classes that are not the target."""
    temperature: Temperature = Fixed(value=1.0)
    """T of the rest."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.nkd`."""
        ours, theirs = student["logits"], teacher["logits"]
        return losses.nkd(
            ours, theirs, classes_of(batch, self.name), self.gamma, self.temperature.of(place, theirs, part)
        )


class Wsld(Answers):
    """Soft targets, weighted by how much worse than the teacher the student still is (WSLD, Zhou et al. 2021)."""

    about: ClassVar[About] = About(
        "responses",
        "Zhou et al. 2021, arXiv:2102.00650",
        "soft cross-entropy times T^2, mean over the labelled examples",
        "a student that is already right where the teacher is unsure",
    )
    mask: ClassVar[str] = SUPERVISED
    zero_at_match: ClassVar[bool] = False

    name: Literal["wsld"] = "wsld"
    weight: Weight = Fixed(value=2.5)
    """A number or a schedule."""
    temperature: Temperature = Fixed(value=2.0)
    """T."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.wsld`."""
        ours, theirs = student["logits"], teacher["logits"]
        return losses.wsld(ours, theirs, classes_of(batch, self.name), self.temperature.of(place, theirs, part))


class Confidence(Answers):
    """The teacher's soft answers, and more and more the student's own hard ones (weak-to-strong, Burns et al. 2023)."""

    about: ClassVar[About] = About(
        "responses",
        "Burns et al. 2023, arXiv:2312.09390",
        "soft cross-entropy times T^2 and cross-entropy, mean over the batch",
        "a student larger than its teacher, which is to trust itself where it is sure, and not to learn the teacher's mistakes",
    )
    scope: ClassVar[Scope] = "batch"
    zero_at_match: ClassVar[bool] = False

    name: Literal["confidence"] = "confidence"
    alpha: Share = WarmUp(schedule="warm-up", value=0.5, share=0.2)
    """The share of the student's own answers; the teacher's have the rest. In the paper it rises over the first fifth of the
    training to 0.5, of the largest students to 0.75."""
    keep_prior: bool = True
    """Whether a batch has as many hard answers of each class as the teacher expects; if not, each is the student's likeliest."""
    temperature: Scheduled = Fixed(value=1.0)
    """T of the teacher's answers."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.confidence`."""
        ours, theirs = student["logits"], teacher["logits"]
        return losses.confidence(ours, theirs, self.alpha.at(place), self.temperature.at(place), self.keep_prior)
