"""What turns raw things into a model's inputs."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Reader(Protocol):
    """Raw things of one kind (images, texts, tensors) to input columns; what a delivered student needs to predict."""

    @property
    def fingerprint(self) -> str:
        """Names the preprocessing: two readers with one fingerprint give the same columns."""
        ...

    def encode(self, raw: Sequence[Any]) -> dict[str, Tensor]:
        """Input columns [len(raw), ...] for raw things, without augmentation."""
        ...
