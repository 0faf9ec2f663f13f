"""Learning from the teacher's whole distribution."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import VALUE, Batch
from limbeck.data.task import Gives, costs
from limbeck.losses.divergences import ForwardKl
from limbeck.losses.storages import Storage
from limbeck.objective.pairs import Answers, same_classes
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.temperatures import Scheduled, Temperature
from limbeck.objective.term import About, Needs, Over
from limbeck.signals.capture import Signals


class SoftTargets(Answers):
    """The teacher's softened distribution, on labelled and unlabelled examples alike (Hinton et al. 2015)."""

    about: ClassVar[About] = About(
        "responses",
        "Hinton, Vinyals & Dean 2015, arXiv:1503.02531",
        "sum over classes times T^2, mean over examples",
        "first of all: the plain method that the others are measured against",
    )
    zero_at_match: ClassVar[bool] = True

    name: Literal["soft-targets"] = "soft-targets"
    loss: Literal["kl", "cross-entropy", "probability-mse", "logit-mse"] = "kl"
    """How the disagreement is measured; all but ``logit-mse`` carry the factor T^2."""
    temperature: Temperature = Fixed(value=4.0)
    """T: a number, a schedule, by an example's difficulty, or learned; 4 is usual for images (Tian et al. 2020)."""
    standardize: bool = False
    """Standardise both logits first, each example by itself (Sun et al. 2024, arXiv:2403.01427); T is near 2 then."""

    @model_validator(mode="after")
    def _temperature_is_used(self) -> Self:
        if self.loss == "logit-mse" and "temperature" in self.model_fields_set and self.temperature.turns != (4.0,):
            raise ValueError("loss: logit-mse has no temperature; leave temperature out")
        return self

    @property
    def takes(self) -> frozenset[Gives]:
        """Numbers by the squared distance only, tokens by the divergence only."""
        if self.standardize or self.loss not in ("kl", "logit-mse"):
            return frozenset({"choices"})
        if self.loss == "logit-mse":
            return frozenset({"choices", "numbers"})
        return frozenset({"choices", "tokens"} if self.temperature.shared else {"choices"})

    def over(self, teacher: Storage | None, labels: Tensor, classes: int, place: Place) -> tuple[Over, ...]:
        """T^2 times the forward KL."""
        assert teacher is not None
        t = float(self.temperature.of(place, teacher.carrier, None))
        return (Over(ForwardKl(), teacher, t**2, t),)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses`."""
        ours, theirs = student["logits"], teacher["logits"]
        if VALUE in batch.labels:  # numbers are compared as they are: unlike logits they have no free constant
            return costs(ours, theirs.detach())
        temperature = self.temperature.of(place, theirs, part)
        if self.standardize:
            ours, theirs = losses.standardize_logits(ours), losses.standardize_logits(theirs)
        if self.loss == "kl":
            return losses.kl_divergence(ours, theirs, temperature)
        if self.loss == "cross-entropy":
            return losses.soft_cross_entropy(ours, theirs, temperature)
        if self.loss == "probability-mse":
            return losses.probability_mse(ours, theirs, temperature)
        return losses.logit_mse(ours, theirs)


class EarlierClasses(Answers):
    """Soft targets among some of the classes, those that both sides knew before (learning without forgetting, Li & Hoiem 2016).

    Not for recipes: the regime ``continual`` says which classes these are.
    """

    about: ClassVar[About] = About(
        "responses",
        "Li & Hoiem 2016, arXiv:1606.09282",
        "sum over the classes times T^2, mean over examples",
        "where classes come one after another",
    )
    zero_at_match: ClassVar[bool] = True

    name: Literal["earlier-classes"] = "earlier-classes"
    classes: Annotated[tuple[int, ...], Field(min_length=1)]
    """Their numbers; the logits of others are not read, so that what is new is free."""
    said: str = "logits"
    """The teacher's signal; ``NAME.logits`` where another teacher is beside the one of that name."""
    temperature: Scheduled = Fixed(value=2.0)
    """T."""

    def needs(self) -> Needs:
        """Both sides' logits."""
        return Needs(frozenset({"logits"}), frozenset({self.said}))

    def build(self, student: Signals, teacher: Signals, examples: int) -> None:
        """Both sides must have the same classes."""
        same_classes(student, {"logits": teacher[self.said]})

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.kl_divergence`."""
        ours, theirs = (one[..., list(self.classes)] for one in (student["logits"], teacher[self.said]))
        return losses.kl_divergence(ours, theirs, self.temperature.at(place))
