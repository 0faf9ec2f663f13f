"""Learning from the teacher's inner features."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import REAL, TOKENS, Batch
from limbeck.objective.projectors import Projector, normalised
from limbeck.objective.schedules import Place
from limbeck.objective.term import Needs, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer


class Hints(Weighted):
    """A student's layer is led to a teacher's layer through a projector (FitNets, Romero et al. 2015)."""

    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.EXPECTATIONS
    zero_at_match: ClassVar[bool] = True

    name: Literal["hints"] = "hints"
    student: str
    """The student's module by its path (``stages.1``; ``path:in`` for its input), or ``hidden.N``."""
    teacher: str
    """The teacher's module, likewise."""
    projector: Literal["auto", "always"] = "auto"
    """``auto``: a linear map where the widths differ; ``always``: also where they are equal."""
    normalise: bool = False
    """Divide both features by their root mean square first: for layers of different scales."""

    def needs(self) -> Needs:
        """One signal from each side."""
        return Needs(frozenset({self.student}), frozenset({self.teacher}))

    def build(self, student: Signals, teacher: Signals) -> nn.Module | None:
        """The projector."""
        return Projector(student[self.student], teacher[self.teacher], self.projector == "always")

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.hint`."""
        assert part is not None
        ours, theirs = part(student[self.student], teacher[self.teacher])
        if self.normalise:
            ours, theirs = normalised(ours), normalised(theirs)
        tokens = batch.masks.get(TOKENS)
        return losses.hint(ours, theirs, tokens if ours.ndim == 3 else None)
