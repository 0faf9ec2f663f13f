"""Learning from the teacher's whole distribution."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import REAL, Batch
from limbeck.errors import SignalError
from limbeck.objective.schedules import Fixed, Place, Temperature
from limbeck.objective.term import Needs, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer


class SoftTargets(Weighted):
    """The teacher's softened distribution, on labelled and unlabelled examples alike (Hinton et al. 2015)."""

    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.MATRIX
    zero_at_match: ClassVar[bool] = True

    name: Literal["soft-targets"] = "soft-targets"
    loss: Literal["kl", "cross-entropy", "probability-mse", "logit-mse"] = "kl"
    """How the disagreement is measured; all but ``logit-mse`` carry the factor T^2."""
    temperature: Temperature = Fixed(value=4.0)
    """T: a number or a schedule; 4 is the usual choice for images (Tian et al. 2020, arXiv:1910.10699)."""

    @model_validator(mode="after")
    def _temperature_is_used(self) -> Self:
        if self.loss == "logit-mse" and "temperature" in self.model_fields_set and self.temperature.turns != (4.0,):
            raise ValueError("loss: logit-mse has no temperature; leave temperature out")
        return self

    def needs(self) -> Needs:
        """Both sides' logits."""
        return Needs(frozenset({"logits"}), frozenset({"logits"}))

    def build(self, student: Signals, teacher: Signals) -> nn.Module | None:
        """Nothing; only checks that both sides have the same classes."""
        ours, theirs = student["logits"].shape[-1], teacher["logits"].shape[-1]
        if ours != theirs:
            raise SignalError(
                f"The student has {ours} classes and the teacher {theirs}: soft targets need the same classes in the "
                "same order. Give the student the teacher's classes, or a teacher trained on yours."
            )
        return None

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses`."""
        ours, theirs = student["logits"], teacher["logits"]
        temperature = self.temperature.at(place)
        if self.loss == "kl":
            return losses.kl_divergence(ours, theirs, temperature)
        if self.loss == "cross-entropy":
            return losses.soft_cross_entropy(ours, theirs, temperature)
        if self.loss == "probability-mse":
            return losses.probability_mse(ours, theirs, temperature)
        return losses.logit_mse(ours, theirs)
