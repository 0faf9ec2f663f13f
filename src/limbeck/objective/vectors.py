"""Learning vectors of texts: from what belongs together, and from how a teacher tells it apart."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import REAL, SUPERVISED, Batch
from limbeck.data.task import Gives, Task
from limbeck.errors import LimbeckError
from limbeck.objective.labels import Labels
from limbeck.objective.schedules import Place
from limbeck.objective.term import About, Needs, Scope, Term, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer


class Pairs(Weighted):
    """A term over pairs of vectors, [B, 2, d]."""

    scope: ClassVar[Scope] = "batch"
    whole: ClassVar[bool] = True

    @property
    def takes(self) -> frozenset[Gives]:
        """Nothing but vectors."""
        return frozenset({"vectors"})

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing."""
        return None


class Partners(Pairs):
    """Each text is to be nearest to its own partner among the second texts of the batch, and the other way round.

    It needs no teacher: the control learns from it. The other texts of the batch count as wrong, also one that says the same.
    """

    about: ClassVar[About] = About(
        "relations",
        "van den Oord et al. 2018, arXiv:1807.03748; Henderson et al. 2017, arXiv:1705.00652",
        "cross-entropy over the batch, mean of both directions, mean over the batch",
        "vectors of texts: always, with batches as large as fit",
    )
    looks_at: ClassVar[str] = "the student's vectors"
    mask: ClassVar[str] = SUPERVISED
    reads: ClassVar[Offer] = Offer.EXPECTATIONS
    zero_at_match: ClassVar[bool] = False

    name: Literal["partners"] = "partners"
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """What cosines are divided by."""

    def needs(self) -> Needs:
        """The student's vectors."""
        return Needs(frozenset({"logits"}))

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.contrastive`."""
        first, second = student["logits"].unbind(1)
        return losses.contrastive(first, second, self.temperature, symmetric=True, detach_teacher=False).mean()


class MarginMse(Pairs):
    """By how much a text's own partner is nearer than the others of the batch (Hofstätter et al. 2020); widths may differ."""

    about: ClassVar[About] = About(
        "relations",
        "Hofstätter et al. 2020, arXiv:2010.02666",
        "squared difference of margins, mean over the pairs of a batch",
        "vectors of texts, without a projector; with `scores: dot` only where the teacher was trained by dot products",
    )
    looks_at: ClassVar[str] = "the vectors of both sides"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.MATRIX
    zero_at_match: ClassVar[bool] = True

    name: Literal["margin-mse"] = "margin-mse"
    scores: Literal["cosine", "dot"] = "cosine"
    """``cosine``; or ``dot``, as published: unbounded, and not scaled by anything. Margins of a teacher that learnt cosines are
    below 2, those of one that learnt dot products may be in the tens, and the value grows with their square."""

    def needs(self) -> Needs:
        """Both sides' vectors."""
        return Needs(frozenset({"logits"}), frozenset({"logits"}))

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.margin_mse`."""
        return losses.margin_mse(student["logits"], teacher["logits"], self.scores == "cosine").mean()


def untaught(task: Task, smoothing: float = 0.0) -> tuple[Term, ...]:
    """What a model learns by without a teacher: labels, or of pairs of texts that they belong together.

    Raises:
        LimbeckError: ``smoothing`` where there are no labels.
    """
    if task.gives != "vectors":
        return (Labels(smoothing=smoothing),)
    if smoothing:
        raise LimbeckError(f"The task {task.name!r} has no labels that could be smoothed: leave teacher.smoothing out.")
    return (Partners(),)
