"""Learning from labels."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import CLASS, SUPERVISED, VALUE, Batch
from limbeck.data.task import Gives, costs
from limbeck.errors import SignalError
from limbeck.losses.divergences import ForwardKl
from limbeck.losses.sparse import Even, Given
from limbeck.losses.storages import Storage
from limbeck.objective.schedules import Place
from limbeck.objective.term import About, Needs, Over, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer


class Labels(Weighted):
    """Cross-entropy with the labels, mean over the examples that have one; squared error where they are numbers."""

    about: ClassVar[About] = About(
        "responses",
        "Szegedy et al. 2016, arXiv:1512.00567 (smoothing)",
        "mean over the labelled examples",
        "always where there are labels; `smoothing` alone is the baseline that any teacher should beat",
    )
    looks_at: ClassVar[str] = "the student's logits, and labels"
    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = SUPERVISED
    reads: ClassVar[Offer] = Offer.EXPECTATIONS
    zero_at_match: ClassVar[bool] = False

    name: Literal["labels"] = "labels"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of each target that is spread over all classes."""

    @property
    def takes(self) -> frozenset[Gives]:
        """Numbers are labels too, and the next token."""
        return frozenset({"choices", "numbers", "tokens"})

    def needs(self) -> Needs:
        """The student's logits."""
        return Needs(frozenset({"logits"}))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing."""
        return None

    def over(self, teacher: Storage | None, labels: Tensor, classes: int, place: Place) -> tuple[Over, ...]:
        """The cross-entropy, which is the forward KL from the label itself."""
        hard = Over(ForwardKl(), Given(labels, classes), 1 - self.smoothing)
        return (hard, Over(ForwardKl(), Even(labels, classes), self.smoothing)) if self.smoothing else (hard,)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.cross_entropy`."""
        if VALUE in batch.labels:
            if self.smoothing:
                raise SignalError("Numbers cannot be smoothed as labels of classes can: leave smoothing out.")
            return costs(student["logits"], batch.labels[VALUE])
        return losses.cross_entropy(student["logits"], batch.labels[CLASS], self.smoothing)
