"""Learning to predict the teacher's maps through small networks of their own."""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import REAL, Batch
from limbeck.errors import SignalError
from limbeck.objective.balance import Weight
from limbeck.objective.features import Projected
from limbeck.objective.pairs import Paired, both_that_count, maps_only
from limbeck.objective.parts.blocks import Bottleneck, Fusion, GaussianHead, Generator
from limbeck.objective.projectors import Projector
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.term import About, Layers, Match, Needs, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer

_Count = Annotated[int, Field(ge=1)]


class Joined(nn.Module):
    """Two features brought to one shape without a linear map, and the network that follows."""

    def __init__(self, joint: Projector, network: nn.Module) -> None:
        super().__init__()
        self.joint, self.network = joint, network


def _shapes(joint: Projector, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    ours, theirs = joint(student.float(), teacher.float())  # as its weights are, whatever the models compute in
    return ours, theirs


class Vid(Paired):
    """The teacher's feature as a Gaussian that the student's predicts (VID, Ahn et al. 2019); can be negative."""

    about: ClassVar[About] = About(
        "features",
        "Ahn et al. 2019, arXiv:1904.05835",
        "mean over the elements of a layer, mean over examples",
        "in place of hints: channels that cannot be predicted count less",
    )
    zero_at_match: ClassVar[bool] = False

    name: Literal["vid"] = "vid"

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The network that predicts mean and variance."""
        joint = Projector(*self.sides(student, teacher), linear=False)
        ours, theirs = _shapes(joint, *self.sides(student, teacher))
        channel = 1 if ours.ndim == 4 else -1
        return Joined(joint, GaussianHead(ours.ndim, ours.shape[channel], theirs.shape[channel]))

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.vid`."""
        assert isinstance(part, Joined)
        ours, theirs = self.sides(student, teacher)
        seen, shown = both_that_count(batch, self.name, ours, theirs)
        ours, theirs = part.joint(ours, theirs, seen, shown)  # padding is zero on both sides, and predicted as zero
        mean, variance = part.network(ours)
        return losses.vid(mean, theirs, variance)


class Ofd(Projected):
    """The teacher before its ReLU, what is far below zero left alone (OFD, Heo et al. 2019).

    Name the modules in front of the ReLUs. Each channel's margin, its mean below zero, is measured on the first batch; the
    projector has no batch normalisation, so that an example does not depend on the others.
    """

    about: ClassVar[About] = About(
        "features",
        "Heo et al. 2019, arXiv:1904.01866",
        "sum over the elements of a layer, mean over examples",
        "convolutional layers before their ReLU",
    )
    zero_at_match: ClassVar[bool] = True

    name: Literal["ofd"] = "ofd"
    weight: Weight = Fixed(value=1e-3)
    """A number or a schedule."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The projector, and the margins."""
        joint = Projector(*self.sides(student, teacher), self.projector == "always")
        _, theirs = _shapes(joint, *self.sides(student, teacher))
        flat = theirs.movedim(1 if theirs.ndim == 4 else -1, 0).flatten(1)
        below = (flat < 0).to(flat.dtype)
        joint.register_buffer("margin", (flat * below).sum(1) / below.sum(1).clamp_min(1))
        return joint

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.ofd`."""
        assert part is not None
        ours, theirs, mask = self.joined(student, teacher, batch, part)
        if mask is not None:
            ours, theirs = (torch.where(mask.unsqueeze(-1), side, 0.0) for side in (ours, theirs))
        return losses.ofd(ours, theirs, part.get_buffer("margin"))


class Mgd(Projected):
    """The teacher's whole map from a masked one of the student (MGD, Yang et al. 2022)."""

    about: ClassVar[About] = About(
        "features",
        "Yang et al. 2022, arXiv:2205.01529",
        "sum over the elements of a map, mean over examples",
        "maps of one resolution; the last ones",
    )
    zero_at_match: ClassVar[bool] = False

    name: Literal["mgd"] = "mgd"
    weight: Weight = Fixed(value=7e-5)
    """A number or a schedule."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the channels, or cells, that are hidden."""
    hide: Literal["channels", "cells"] = "channels"
    """What is hidden together."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Projector and generator."""
        joint = Projector(*self.sides(student, teacher), self.projector == "always")
        _, theirs = _shapes(joint, *self.sides(student, teacher))
        maps_only(self.name, theirs)
        return Joined(joint, Generator(theirs.shape[1]))

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.mgd`."""
        assert isinstance(part, Joined)
        ours, theirs = part.joint(*self.sides(student, teacher))
        shape = (*ours.shape[:2], 1, 1) if self.hide == "channels" else (len(ours), 1, *ours.shape[2:])
        # from the CPU's generator, whose state is in every checkpoint
        mask = (torch.rand(shape) >= self.drop).to(ours.device)
        return losses.mgd(ours, theirs, mask, part.network)


class SimKd(Paired):
    """The teacher's last map, through a deeper projector (SimKD, Chen et al. 2022).

    The paper then delivers the projector and the teacher's classifier; here the student keeps its own classifier, so a term
    that trains it (labels, soft targets) belongs beside this one.
    """

    about: ClassVar[About] = About(
        "features",
        "Chen et al. 2022, arXiv:2203.14001",
        "mean over the elements of a map, mean over examples",
        "the last maps, beside labels or soft targets",
    )
    zero_at_match: ClassVar[bool] = False

    name: Literal["simkd"] = "simkd"

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The projector."""
        joint = Projector(*self.sides(student, teacher), linear=False)
        ours, theirs = _shapes(joint, *self.sides(student, teacher))
        maps_only(self.name, ours)
        return Joined(joint, Bottleneck(ours.shape[1], theirs.shape[1]))

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.simkd`."""
        assert isinstance(part, Joined)
        ours, theirs = part.joint(*self.sides(student, teacher))
        return losses.simkd(part.network(ours), theirs)


class Review(Weighted):
    """Several levels at once, the deeper ones of the student fused into the shallower (ReviewKD, Chen et al. 2021)."""

    about: ClassVar[About] = About(
        "features",
        "Chen et al. 2021, arXiv:2104.09044",
        "mean over the elements of a map, pooled maps included, sum over levels, mean over examples",
        "two to four stages of convolutional models",
    )
    looks_at: ClassVar[str] = "several layers of each side"
    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.EXPECTATIONS
    zero_at_match: ClassVar[bool] = False

    name: Literal["review"] = "review"
    layers: Layers | dict[str, str]
    """Pairs ``{student's: teacher's}`` from shallow to deep, or a rule that finds them."""
    middle: _Count = 64
    """Channels of what is passed from level to level."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.layers:
            raise ValueError("layers is empty")
        return self

    def resolved(self, match: Match) -> tuple[Self, ...]:
        """The same term with its pairs."""
        if isinstance(self.layers, dict):
            return (self,)
        return (self.model_copy(update={"layers": dict(match(self.layers))}),)

    def _pairs(self) -> dict[str, str]:
        if not isinstance(self.layers, dict):
            raise SignalError(
                "Layers are found when both models are known: `limbeck.objective.matched(terms, ...)` does it."
            )
        return self.layers

    def needs(self) -> Needs:
        """All levels."""
        return Needs(frozenset(self._pairs()), frozenset(self._pairs().values()))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The fusion."""
        for ours, theirs in self._pairs().items():
            maps_only(self.name, student[ours])
            maps_only(self.name, teacher[theirs])
        before = [student[name].shape[1] for name in self._pairs()]
        after = [teacher[name].shape[1] for name in self._pairs().values()]
        return Fusion(before, after, self.middle)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.review`."""
        assert part is not None
        levels = [student[name] for name in self._pairs()]
        targets = [teacher[name] for name in self._pairs().values()]
        fused = part(levels, [(target.shape[2], target.shape[3]) for target in targets])
        return torch.stack([losses.review(one, target) for one, target in zip(fused, targets, strict=True)]).sum(0)
