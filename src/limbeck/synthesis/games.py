"""The games that a generator of pictures plays with a teacher."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from limbeck.config import Config
from limbeck.models.peers import Peers
from limbeck.synthesis import priors

Weight = Annotated[float, Field(ge=0, le=1e6)]


class Game(Protocol):
    """What a generator is after; a frozen config."""

    @property
    def every(self) -> int:
        """Steps of the student for each step of the generator."""
        ...

    @property
    def statistics(self) -> float:
        """Weight of the distance of statistics, summed over the teacher's BatchNorm layers, where it has any."""
        ...

    def reads(self, teacher: nn.Module) -> frozenset[str]:
        """The teacher's signals that it looks at."""
        ...

    def parts(self, teacher: Mapping[str, Tensor], student: Callable[[], Tensor]) -> dict[str, Tensor]:
        """What the generator makes small, part by part, each a scalar with its weight.

        ``teacher``: its signals of a batch of made pictures. ``student``: gives its logits of them, [B, classes].
        """
        ...


class Dafl(Config):
    """Pictures that the teacher is sure of, of all classes alike, that stir its last layer (Chen et al. 2019, 1904.01186)."""

    name: Literal["dafl"] = "dafl"
    one_hot: Weight = 1.0
    """Weight of the cross-entropy with the teacher's own likeliest class."""
    balance: Weight = 5.0
    """Weight of the negative entropy of the mean answer."""
    activation: Weight = 0.1
    """Weight of the negative mean size of what the teacher's last layer reads."""
    statistics: Weight = 0.0
    """Weight of the distance between the statistics that BatchNorm layers keep and those of the pictures, summed over layers, as
    in DeepInversion; none in the paper, but what was learnt in tens of thousands of steps there is learnt in some hundred so."""

    @property
    def every(self) -> int:
        """Both learn in each step."""
        return 1

    def reads(self, teacher: nn.Module) -> frozenset[str]:
        """The logits, and what the last linear layer or convolution reads, of each model where several answer as one."""
        return frozenset({"logits", *(_last_read(teacher) if self.activation else ())})

    def parts(self, teacher: Mapping[str, Tensor], student: Callable[[], Tensor]) -> dict[str, Tensor]:
        """See `priors`."""
        found = {
            "one-hot": self.one_hot * priors.one_hot(teacher["logits"]).mean(),
            "balance": self.balance * priors.information_entropy(teacher["logits"]),
        }
        if features := [priors.activation(value).mean() for name, value in teacher.items() if name != "logits"]:
            found["activation"] = self.activation * torch.stack(features).mean()
        return found


class Adversarial(Config):
    """Pictures on which the student is least like its teacher (ZSKT, Micaelli & Storkey 2019, arXiv:1905.09768)."""

    name: Literal["adversarial"] = "adversarial"
    student_steps: Annotated[int, Field(ge=1)] = 10
    """Steps of the student for each of the generator; 10 in the paper."""
    balance: Weight = 0.0
    """Weight of DAFL's negative entropy of the mean answer, against pictures of few classes; none in the paper."""
    statistics: Weight = 0.0
    """As for ``dafl``; none in the paper."""

    @property
    def every(self) -> int:
        """See ``student_steps``."""
        return self.student_steps

    def reads(self, teacher: nn.Module) -> frozenset[str]:
        """The logits."""
        return frozenset({"logits"})

    def parts(self, teacher: Mapping[str, Tensor], student: Callable[[], Tensor]) -> dict[str, Tensor]:
        """See `priors`."""
        found = {"agreement": priors.agreement(student(), teacher["logits"]).mean()}
        if self.balance:
            found["balance"] = self.balance * priors.information_entropy(teacher["logits"])
        return found


def _last_read(teacher: nn.Module) -> list[str]:
    """What the last linear layer or convolution reads; of models side by side, that of each."""
    several = [f"peers.{place}" for place in range(len(teacher.peers))] if isinstance(teacher, Peers) else [""]
    found = []
    for path in several:
        names = [
            name for name, one in teacher.get_submodule(path).named_modules() if isinstance(one, nn.Linear | nn.Conv2d)
        ]
        found += [f"{path}.{name}:in".strip(".") for name in names[-1:]]
    return found
