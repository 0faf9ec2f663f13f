"""What a student is to be, whoever teaches it: terms that read no teacher and no label."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import REAL, Batch
from limbeck.objective.balance import Weight
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.term import About, Needs, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.gradient import GRADIENT
from limbeck.signals.logits import Offer


class GradientPenalty(Weighted):
    """How much the student's logits change with its input, in one random direction of the classes a step: to be small.

    In expectation over the directions it is the squared Frobenius norm of the Jacobian of the logits. The input is the image, or
    the embeddings of a text. It costs a second backward pass.
    """

    about: ClassVar[About] = About(
        "features",
        "Drucker & Le Cun 1992; Hoffman et al. 2019, arXiv:1908.02729",
        "squared length summed over the input, mean over examples",
        "few labels, or inputs with noise: a student that answers alike around each example",
    )
    looks_at: ClassVar[str] = "how the student's logits change with the input"
    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.EXPECTATIONS
    zero_at_match: ClassVar[bool] = False

    name: Literal["gradient-penalty"] = "gradient-penalty"
    weight: Weight = Fixed(value=0.01)
    """A number or a schedule. 0.01 suits images that are normalised; it weighs the mean over the examples that count."""

    def needs(self) -> Needs:
        """The student's gradient."""
        return Needs(frozenset({GRADIENT}))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing."""
        return None

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.gradient_penalty`."""
        return losses.gradient_penalty(student[GRADIENT])
