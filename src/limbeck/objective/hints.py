"""Learning from the teacher's inner features."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import Batch
from limbeck.objective.pairs import Paired, tokens_that_count
from limbeck.objective.projectors import Projector, normalised
from limbeck.objective.schedules import Place
from limbeck.objective.term import About
from limbeck.signals.capture import Signals


class Hints(Paired):
    """A student's layer is led to a teacher's layer through a projector (FitNets, Romero et al. 2015, arXiv:1412.6550)."""

    about: ClassVar[About] = About(
        "features",
        "Romero et al. 2015, arXiv:1412.6550",
        "mean over the elements of a layer, mean over examples",
        "a layer of the student that should hold what a layer of the teacher holds",
    )
    zero_at_match: ClassVar[bool] = True

    name: Literal["hints"] = "hints"
    projector: Literal["auto", "always"] = "auto"
    """``auto``: a linear map where the widths differ; ``always``: also where they are equal."""
    normalise: bool = False
    """Divide both features by their root mean square first: for layers of different scales."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The projector."""
        return Projector(*self.sides(student, teacher), self.projector == "always")

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.hint`."""
        assert part is not None
        ours, theirs = self.sides(student, teacher)
        seen, shown = tokens_that_count(batch, "student", ours), tokens_that_count(batch, "teacher", theirs)
        ours, theirs = part(ours, theirs, seen, shown)
        if ours.ndim != 3:
            seen = shown = None
        if self.normalise:
            ours, theirs = normalised(ours, seen), normalised(theirs, shown)
        return losses.hint(ours, theirs, seen)
