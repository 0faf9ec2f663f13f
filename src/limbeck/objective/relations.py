"""Learning how the examples of a batch stand to each other."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import Batch
from limbeck.data.task import Gives
from limbeck.objective.balance import Weight
from limbeck.objective.pairs import Paired, pooled, tokens_that_count
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.term import About, Scope
from limbeck.signals.capture import Signals


class Relation(Paired):
    """A term between the relations of a batch's examples: widths may differ, and nothing is projected."""

    scope: ClassVar[Scope] = "batch"
    zero_at_match: ClassVar[bool] = True

    pool: bool = True
    """Average maps over their positions first; tokens always are, over those that count."""

    @property
    def takes(self) -> frozenset[Gives]:
        """Vectors are features too."""
        return frozenset({"choices", "vectors"})

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing."""
        return None

    def embeddings(self, student: Signals, teacher: Signals, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both sides' vectors, [B, d]."""
        ours, theirs = self.sides(student, teacher)
        sides = (
            (ours, tokens_that_count(batch, "student", ours)),
            (theirs, tokens_that_count(batch, "teacher", theirs)),
        )
        found = [pooled(one, mask) if self.pool or one.ndim == 3 else one.flatten(1) for one, mask in sides]
        return found[0], found[1]


class RkdDistance(Relation):
    """Distances between examples, by their mean (RKD-D, Park et al. 2019)."""

    about: ClassVar[About] = About(
        "relations",
        "Park et al. 2019, arXiv:1904.05068",
        "Huber, mean over the pairs of a batch",
        "embeddings: distances matter and the space itself does not",
    )
    name: Literal["rkd-distance"] = "rkd-distance"
    weight: Weight = Fixed(value=25.0)
    """A number or a schedule."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.rkd_distance`."""
        return losses.rkd_distance(*self.embeddings(student, teacher, batch))


class RkdAngle(Relation):
    """Angles between three examples (RKD-A, Park et al. 2019)."""

    about: ClassVar[About] = About(
        "relations",
        "Park et al. 2019, arXiv:1904.05068",
        "Huber, mean over the triples of a batch; time grows with its cube",
        "beside rkd-distance, for batches of up to a few hundred",
    )
    name: Literal["rkd-angle"] = "rkd-angle"
    weight: Weight = Fixed(value=50.0)
    """A number or a schedule."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.rkd_angle`."""
        return losses.rkd_angle(*self.embeddings(student, teacher, batch))


class SimilarityPreserving(Relation):
    """Which examples of a batch excite a layer alike (SP, Tung & Mori 2019)."""

    about: ClassVar[About] = About(
        "relations",
        "Tung & Mori 2019, arXiv:1907.09682",
        "squared difference of row-normalised similarities, mean over the square of the batch",
        "layers of any shapes, without a projector",
    )
    name: Literal["similarity-preserving"] = "similarity-preserving"
    weight: Weight = Fixed(value=3000.0)
    """A number or a schedule."""
    pool: bool = False
    """Average maps over their positions first; the paper does not."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.similarity_preserving`."""
        return losses.similarity_preserving(*self.embeddings(student, teacher, batch))


class CorrelationCongruence(Relation):
    """Kernels between examples, as a truncated Gaussian (CC, Peng et al. 2019)."""

    about: ClassVar[About] = About(
        "relations",
        "Peng et al. 2019, arXiv:1904.01802",
        "squared difference of kernels, mean over the square of the batch",
        "beside soft targets; batches with several examples of a class",
    )
    name: Literal["correlation-congruence"] = "correlation-congruence"
    weight: Weight = Fixed(value=100.0)
    """A number or a schedule."""
    gamma: Annotated[float, Field(gt=0)] = 0.4
    """Width of the kernel."""
    order: Annotated[int, Field(ge=1, le=8)] = 2
    """Order of its Taylor expansion."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.correlation_congruence`."""
        return losses.correlation_congruence(*self.embeddings(student, teacher, batch), self.gamma, self.order)


class Pkt(Relation):
    """The distribution of an example over its neighbours (PKT, Passalis & Tefas 2018)."""

    about: ClassVar[About] = About(
        "relations",
        "Passalis & Tefas 2018, arXiv:1803.10837",
        "sum over neighbours, mean over the batch; the published weight of 30000 is 30000 / batch here",
        "embeddings for retrieval, where neighbours matter",
    )
    name: Literal["pkt"] = "pkt"
    weight: Weight = Fixed(value=400.0)
    """A number or a schedule."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.pkt`."""
        return losses.pkt(*self.embeddings(student, teacher, batch))
