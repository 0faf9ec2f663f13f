"""Learning each layer from those of the teacher that suit it, example by example."""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck import losses
from limbeck.config import Tuple
from limbeck.data.batch import REAL, Batch
from limbeck.data.task import Gives
from limbeck.objective.hints import Hints
from limbeck.objective.pairs import tokens_that_count
from limbeck.objective.parts.chooser import Chooser
from limbeck.objective.schedules import Place
from limbeck.objective.term import About, Needs, Scope, Weighted
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer

Layer = Annotated[str, Field(min_length=1)]


class LayerChoice(Weighted):
    """Each named layer of the student is led to several of the teacher, by shares that are learnt for every example.

    The value is the mean over the student's layers of ``sum_k g_k hint_k + balance (log K - H(g))``, with normalised hints, and
    ``g = softmax_k(q . k_k / sqrt(width))`` of a query of the student's layer and a key of each of the teacher's: linear maps of
    the features, averaged over positions and standardised. Shares begin all but equal, and follow what can be copied: no label
    says which layer is right. With one layer on either side this is ``hints`` with ``normalise``. A layer of a named teacher is
    ``NAME.LAYER``; the shares are in the learning curve.
    """

    about: ClassVar[About] = About(
        "features",
        "Chen et al. 2021, arXiv:2012.03236; Ji et al. 2021, arXiv:2102.02973",
        "mean over the elements of a layer, sum over the teacher's by their shares, mean over the student's, mean over examples",
        "layers of which nobody knows which belong together",
    )
    looks_at: ClassVar[str] = "several layers of each side"
    scope: ClassVar[Scope] = "example"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.EXPECTATIONS
    zero_at_match: ClassVar[bool] = False

    name: Literal["layer-choice"] = "layer-choice"
    student: Annotated[tuple[Layer, ...], Tuple, Field(min_length=1)]
    """The student's modules by their paths, or ``hidden.N``."""
    teacher: Annotated[tuple[Layer, ...], Tuple, Field(min_length=1)]
    """The teacher's, from which each of them learns."""
    balance: Annotated[float, Field(ge=0)] = 0.1
    """How strongly shares are held together, in nats: with 0 a layer may come to hear that alone which is easiest to copy."""
    width: Annotated[int, Field(ge=1)] = 32
    """Numbers in a query and in a key."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for side, names in (("student", self.student), ("teacher", self.teacher)):
            if len(set(names)) != len(names):
                raise ValueError(f"{side}: a layer is named twice: name each once")
        return self

    @property
    def takes(self) -> frozenset[Gives]:
        """Vectors are features too."""
        return frozenset({"choices", "vectors"})

    def needs(self) -> Needs:
        """All the layers."""
        return Needs(frozenset(self.student), frozenset(self.teacher))

    @property
    def hints(self) -> tuple[Hints, ...]:
        """One for each pair of layers, those of the student's first layer first."""
        return tuple(Hints(student=a, teacher=b, normalise=True) for a in self.student for b in self.teacher)

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """What chooses, and the projectors of all pairs."""
        joints = [one.build(student, teacher, examples) for one in self.hints]
        ours, theirs = {one: student[one] for one in self.student}, {one: teacher[one] for one in self.teacher}
        return Chooser(ours, theirs, self.width, joints)

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See above, [B]."""
        assert isinstance(part, Chooser)
        ours = [(student[name], tokens_that_count(batch, "student", student[name])) for name in self.student]
        theirs = [(teacher[name].detach(), tokens_that_count(batch, "teacher", teacher[name])) for name in self.teacher]
        shares = part(ours, theirs)
        costs = torch.stack(
            [
                one.values(student, teacher, batch, place, joint)
                for one, joint in zip(self.hints, part.joints, strict=True)
            ],
            1,
        ).view_as(shares)
        each = (shares.exp() * costs).sum(-1) + self.balance * losses.evenness(shares)
        value: Tensor = each.mean(1)
        return value
