"""Learning how the channels of an example stand to each other."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import REAL, Batch
from limbeck.errors import SignalError
from limbeck.objective.balance import Weight
from limbeck.objective.pairs import Paired, maps_only, tokens_that_count
from limbeck.objective.projectors import Projector
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.term import About, Needs, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer


class Gram(Paired):
    """Which channels of an example are active together, as a Gram matrix."""

    about: ClassVar[About] = About(
        "relations",
        "Gatys et al. 2015, arXiv:1508.06576; Yim et al. 2017",
        "mean over the entries of C x C (`kl`: sum over a row times T^2, mean over rows), mean over examples",
        "textures and styles: what is there, not where",
    )
    zero_at_match: ClassVar[bool] = True

    name: Literal["gram"] = "gram"
    form: Literal["squared", "kl"] = "squared"
    """``squared`` difference, or the divergence of each row's softmax."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T of ``kl``."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The projector, if the widths differ."""
        return Projector(*self.sides(student, teacher))

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.gram`."""
        assert part is not None
        ours, theirs = self.sides(student, teacher)
        seen, shown = tokens_that_count(batch, "student", ours), tokens_that_count(batch, "teacher", theirs)
        ours, theirs = part(ours, theirs, seen, shown)
        if ours.ndim == 2:  # a vector is one position
            ours, theirs = ours.unsqueeze(1), theirs.unsqueeze(1)
        elif ours.ndim == 3 and seen is not None and shown is not None:
            # padding is no position, and the projector has added its bias to it
            ours, theirs = ours * seen.unsqueeze(-1), theirs * shown.unsqueeze(-1)
        return losses.gram(ours, theirs, self.form, self.temperature)


class Nst(Paired):
    """The channels of a map as a set of patterns (NST, Huang & Wang 2017)."""

    about: ClassVar[About] = About(
        "relations",
        "Huang & Wang 2017, arXiv:1707.01219",
        "squared maximum mean discrepancy of an example's channels, mean over examples",
        "convolutional layers of any widths, without a projector",
    )
    zero_at_match: ClassVar[bool] = True

    name: Literal["nst"] = "nst"
    weight: Weight = Fixed(value=50.0)
    """A number or a schedule."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """What pools the maps to one size; nothing is trained."""
        for side in self.sides(student, teacher):
            maps_only(self.name, side)
        return Projector(*self.sides(student, teacher), linear=False)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.nst`."""
        assert part is not None
        return losses.nst(*part(*self.sides(student, teacher)))


class Fsp(Weighted):
    """How a stage's input leads to its output, as products of channels (FSP, Yim et al. 2017); widths must agree."""

    about: ClassVar[About] = About(
        "relations",
        "Yim et al. 2017 (CVPR)",
        "mean over the entries of the flow matrix, mean over examples",
        "stages whose first and last layers have the teacher's widths",
    )
    looks_at: ClassVar[str] = "two layers of each side"
    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.EXPECTATIONS
    zero_at_match: ClassVar[bool] = True

    name: Literal["fsp"] = "fsp"
    weight: Weight = Fixed(value=50.0)
    """A number or a schedule."""
    student: tuple[str, str]
    """The student's first and last module of the stage."""
    teacher: tuple[str, str]
    """The teacher's."""

    def needs(self) -> Needs:
        """Two layers a side."""
        return Needs(frozenset(self.student), frozenset(self.teacher))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing; only checks the widths."""
        for signals, names in ((student, self.student), (teacher, self.teacher)):
            for name in names:
                maps_only(self.name, signals[name])
        ours = [student[name].shape[1] for name in self.student]
        theirs = [teacher[name].shape[1] for name in self.teacher]
        if ours != theirs:
            raise SignalError(
                f"The student's stage has {ours} channels and the teacher's {theirs}: the term {self.name!r} needs the "
                "same. `gram` or `similarity-preserving` take layers of other widths."
            )
        return None

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.fsp`."""
        return losses.fsp(*(student[name] for name in self.student), *(teacher[name] for name in self.teacher))
