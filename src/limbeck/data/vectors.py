"""The task of vectors: a pair of texts that belong together, each of them one vector of the same model."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.data.batch import CLASS, NO_LABEL
from limbeck.data.task import ASKED, Answered, Common, Gives, Reads
from limbeck.errors import LimbeckError

SIDES: Final = ("first", "second")
"""The two texts of a pair: a question and its answer, a query and a passage."""
_ALIKE = 1e-6  # cosines that are no further apart are equal: float32 cannot tell them apart
_BLOCK = 1024  # first texts whose cosines are held at once


class Vectors(Common):
    """A vector for each text of a pair; a text's own partner is to be the nearest, by cosine, of all partners there are.

    That two texts are a pair is all that is known of them: no label is read. Labels, int64 [N, 2], say which text is which.
    """

    measure: ClassVar[str] = "MRR"
    cost: ClassVar[str] = "distance"
    auto: ClassVar[str] = "AutoModel"
    new_head: ClassVar[bool] = False
    gives: ClassVar[Gives] = "vectors"
    reads: ClassVar[Reads] = "pairs"
    constant: ClassVar[str] = "giving all texts the same vector"
    metrics: ClassVar[tuple[str, ...]] = ("recall-1", "recall-10")

    name: Literal["vectors"] = "vectors"

    def shape(self, rows: int, length: int, outputs: int) -> tuple[int, ...]:
        """[B, 2, d]: of the first text and the second; models may have vectors of different widths."""
        return rows, 2, -1

    def read(
        self, labels: Sequence[Any], where: str, names: Sequence[str] | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """[N, 2], all alike: whatever stands in place of a label is not looked at."""
        return torch.arange(2).expand(len(labels), 2).clone(), SIDES

    def strata(self, labels: Tensor) -> Tensor:
        """All rows alike."""
        return torch.where(labels[:, 0] < 0, NO_LABEL, 0)

    def column(self, labels: Tensor, supervised: Tensor, length: int) -> dict[str, Tensor]:
        """``class``, int64 [B, 2]: 0 and 1, of the first text and the second."""
        return {CLASS: torch.where(supervised[:, None] & (labels >= 0), labels, ASKED)}

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The vectors, float [B, 1 or 2, d]."""
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Refused: vectors have none."""
        raise LimbeckError("Vectors have no probabilities: use predict() or logits().")

    def said(self, labels: Tensor, items: Sequence[Any], places: Tensor | None, names: Sequence[str]) -> list[Any]:
        """The vector of a text, a list of numbers; of a pair a tuple of two."""
        return [row[0] if len(row) == 1 else tuple(row) for row in labels.tolist()]

    def scores(self, answered: Answered) -> Tensor:
        """The reciprocal of the rank of the second text among all second texts, by its cosine with the first.

        Equal ones stand in a random order: what is given is the mean over those.
        """
        nearer, equal = ranks(answered.logits)
        harmonic = F.pad(torch.arange(1, len(nearer) + 1, device=nearer.device).double().reciprocal().cumsum(0), (1, 0))
        return (harmonic[nearer + equal] - harmonic[nearer]) / equal

    def costs(self, answered: Answered) -> Tensor:
        """1 less the cosine of the two texts."""
        first, second = pairs(answered.logits)
        return 1 - (first * second).sum(-1)

    def floor(self, labels: Tensor) -> float:
        """The mean of 1 / rank in a random order."""
        return float(torch.arange(1, len(labels) + 1).double().reciprocal().mean())


def pairs(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """First and second texts' vectors, [N, d] each, of length 1. ``vectors``: [2 N, d], first and second text in turns."""
    first, second = F.normalize(vectors, dim=-1).reshape(-1, 2, vectors.shape[-1]).unbind(1)
    return first, second


def ranks(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """For each first text how many second texts are nearer than its own, and how many as near, it included; int64 [N] each.

    ``vectors``: [2 N, d], first and second text in turns. Near is a large cosine, in float64.
    """
    first, second = pairs(vectors.double())
    nearer, equal = [], []
    for start in range(0, len(first), _BLOCK):
        cosine = first[start : start + _BLOCK] @ second.T
        own = torch.arange(start, start + len(cosine), device=cosine.device)
        above = cosine - cosine.gather(1, own[:, None])
        nearer.append((above > _ALIKE).sum(1))
        equal.append((above.abs() <= _ALIKE).sum(1))
    return torch.cat(nearer), torch.cat(equal)
