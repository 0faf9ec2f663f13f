"""What every writer of a format gives back, and what it leaves beside the model."""

from dataclasses import dataclass
from typing import Final

import torch

from limbeck.evidence.records import Latency

ABOUT: Final = "limbeck.json"


@dataclass(frozen=True)
class Proof:
    """What a format's writer found when it read its own files again."""

    max_difference: float
    tolerance: float
    latency: dict[str, Latency]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest absolute difference; infinite where the shapes differ, NaN where either is."""
    if one.shape != other.shape:
        return float("inf")
    return float((one.double() - other.double()).abs().max())
