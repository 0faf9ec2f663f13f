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
        ours, theirs = student[self.student], teacher[self.teacher]
        seen, shown = _counted(batch, "student", ours), _counted(batch, "teacher", theirs)
        ours, theirs = part(ours, theirs, seen, shown)
        if ours.ndim != 3:
            seen = shown = None
        if self.normalise:
            ours, theirs = normalised(ours, seen), normalised(theirs, shown)
        return losses.hint(ours, theirs, seen)


def _counted(batch: Batch, side: str, value: Tensor) -> Tensor | None:
    """The positions of a feature that count, [B, L]; None where it has no position for each token."""
    own = batch.inputs.get(f"{side}.attention_mask")
    mask = batch.masks.get(TOKENS) if own is None else own.bool()
    return mask if mask is not None and value.ndim == 3 and mask.shape == value.shape[:2] else None
