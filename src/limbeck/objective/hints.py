"""Learning from the teacher's inner features."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import Batch
from limbeck.data.task import Gives
from limbeck.errors import SignalError
from limbeck.objective.pairs import Paired, both_that_count
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
    tokens: Literal["all", "first"] = "all"
    """Of a text: all that count, or the first alone, which stands for the whole (Patient KD, Sun et al. 2019)."""

    @property
    def takes(self) -> frozenset[Gives]:
        """Vectors are features too."""
        return frozenset({"choices", "vectors"})

    def sides(self, student: Signals, teacher: Signals) -> tuple[Tensor, Tensor]:
        """The two features; of a text [B, L, d], or [B, d] of the first token.

        Raises:
            SignalError: the first token is asked of what has no tokens.
        """
        ours, theirs = super().sides(student, teacher)
        if self.tokens == "all":
            return ours, theirs
        if ours.ndim != 3 or theirs.ndim != 3:
            shapes = " and ".join(str(list(side.shape)) for side in (ours, theirs))
            raise SignalError(f"The term 'hints' has tokens: first, but these layers have no tokens: {shapes}.")
        return ours[:, 0], theirs[:, 0]

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The projector."""
        return Projector(*self.sides(student, teacher), self.projector == "always")

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.hint`."""
        assert part is not None
        ours, theirs = self.sides(student, teacher)
        seen, shown = both_that_count(batch, self.name, ours, theirs)
        ours, theirs = part(ours, theirs, seen, shown)
        if ours.ndim != 3:
            seen = shown = None
        if self.normalise:
            ours, theirs = normalised(ours, seen), normalised(theirs, shown)
        return losses.hint(ours, theirs, seen)
