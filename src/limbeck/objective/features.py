"""Learning from the teacher's layers beside plain hints: where they are active, in which direction, how they change."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import REAL, Batch
from limbeck.data.task import Gives
from limbeck.errors import SignalError
from limbeck.objective.balance import Weight
from limbeck.objective.pairs import Paired, both_that_count, demand_the_same_tokens
from limbeck.objective.projectors import Projector
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.term import About, Needs, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.gradient import GRADIENT
from limbeck.signals.logits import Offer


class Projected(Paired):
    """A term between two features in one shape, the student's through a projector where the widths differ."""

    zero_at_match: ClassVar[bool] = True

    projector: Literal["auto", "always"] = "auto"
    """``auto``: a linear map where the widths differ; ``always``: also where they are equal."""

    @property
    def takes(self) -> frozenset[Gives]:
        """Vectors are features too."""
        return frozenset({"choices", "vectors"})

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The projector."""
        return Projector(*self.sides(student, teacher), self.projector == "always")

    def joined(
        self, student: Signals, teacher: Signals, batch: Batch, part: nn.Module | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Both features in one shape, and which tokens count, if they are tokens of a text."""
        assert part is not None
        ours, theirs = self.sides(student, teacher)
        seen, shown = both_that_count(batch, self.name, ours, theirs)  # type: ignore[attr-defined]
        ours, theirs = part(ours, theirs, seen, shown)
        return ours, theirs, seen if ours.ndim == 3 else None


class Cosine(Projected):
    """The direction of a layer's features at each position; their length does not matter."""

    about: ClassVar[About] = About(
        "features",
        "Sanh et al. 2019, arXiv:1910.01108",
        "1 less the cosine, mean over positions, mean over examples",
        "hidden states of transformers, whose scale differs from layer to layer",
    )
    name: Literal["cosine"] = "cosine"

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.cosine`."""
        return losses.cosine(*self.joined(student, teacher, batch, part))


class ChannelWise(Projected):
    """Where each channel is active, as a distribution over positions (CWD, Shu et al. 2021)."""

    about: ClassVar[About] = About(
        "features",
        "Shu et al. 2021, arXiv:2011.13256",
        "sum over positions times T^2, mean over channels, mean over examples",
        "maps for dense prediction; the published weight for features is 50 at T = 4",
    )
    name: Literal["channel-wise"] = "channel-wise"
    weight: Weight = Fixed(value=5.0)
    """A number or a schedule."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """T."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The projector.

        Raises:
            SignalError: the features have no positions.
        """
        only_maps(self.name, *self.sides(student, teacher))
        return super().build(student, teacher, examples)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.channel_wise`."""
        ours, theirs, seen = self.joined(student, teacher, batch, part)
        return losses.channel_wise(ours, theirs, self.temperature, seen)


class AttentionTransfer(Paired):
    """Where a layer is active, summed over its channels (AT, Zagoruyko & Komodakis 2017); channel counts may differ."""

    about: ClassVar[About] = About(
        "features",
        "Zagoruyko & Komodakis 2017, arXiv:1612.03928",
        "mean over positions of L2-normalised maps, mean over examples",
        "convolutional layers of any widths, without a projector",
    )
    zero_at_match: ClassVar[bool] = True

    name: Literal["attention-transfer"] = "attention-transfer"
    weight: Weight = Fixed(value=1000.0)
    """A number or a schedule."""
    power: Annotated[float, Field(ge=1)] = 2.0
    """Power of the absolute activations that are averaged over channels."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """What brings both to the same positions; nothing is trained."""
        only_maps(self.name, *self.sides(student, teacher))
        return Projector(*self.sides(student, teacher), linear=False)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.attention_map`."""
        assert part is not None
        ours, theirs = self.sides(student, teacher)
        seen, shown = both_that_count(batch, self.name, ours, theirs)
        ours, theirs = part(ours, theirs, seen, shown)
        return losses.attention_map(ours, theirs, self.power, seen if ours.ndim == 3 else None)


class Jacobian(Weighted):
    """How the logits change with the input, in one random direction of the classes a step (Sobolev training).

    The input is the image, or the embeddings of a text. It costs a second backward pass through the student, and one through
    the teacher where nothing is stored.
    """

    about: ClassVar[About] = About(
        "features",
        "Czarnecki et al. 2017, arXiv:1706.04859; Srinivas & Fleuret 2018, arXiv:1803.00443",
        "squared distance summed over the input (of unit vectors by default), mean over examples",
        "few examples: it says how the teacher answers around each of them",
    )
    looks_at: ClassVar[str] = "how the logits of both sides change with the input"
    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.MATRIX
    zero_at_match: ClassVar[bool] = True

    name: Literal["jacobian"] = "jacobian"
    normalise: bool = True
    """Compare directions alone."""

    def needs(self) -> Needs:
        """Both sides' gradients."""
        return Needs(frozenset({GRADIENT}), frozenset({GRADIENT}))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing; only checks that both sides read the same input.

        Raises:
            SignalError: they do not.
        """
        ours, theirs = student[GRADIENT], teacher[GRADIENT]
        if ours.shape != theirs.shape:
            raise SignalError(
                f"The student's gradient is {list(ours.shape[1:])} an example and the teacher's {list(theirs.shape[1:])}: "
                "gradients can be compared only where both read the same input, of the same size."
            )
        return None

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.jacobian`."""
        demand_the_same_tokens(batch, self.name)
        return losses.jacobian(student[GRADIENT], teacher[GRADIENT], self.normalise)


def only_maps(name: str, *sides: Tensor) -> None:
    """Refuses features that have no positions.

    Raises:
        SignalError: one is a vector.
    """
    if any(side.ndim < 3 for side in sides):
        shapes = " and ".join(str(list(side.shape)) for side in sides)
        raise SignalError(
            f"The term {name!r} needs features with positions, maps [batch, channels, height, width] or tokens; it was "
            f"given {shapes}."
        )
