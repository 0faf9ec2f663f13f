"""`Author`: a teacher that writes its texts where it is, from prompts as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Wanted:
    """Texts of at most ``most`` tokens, ``samples`` after each prompt, drawn at ``temperature``.

    0: the likeliest token each time.
    """

    most: int
    samples: int = 1
    temperature: float = 0.0


@runtime_checkable
class Author(Protocol):
    """What a `Teacher` may be besides. One whose model is here need not be: `limbeck.models.writers` write with that."""

    @property
    def manner(self) -> str:
        """Names whatever its texts hang on beside the teacher's fingerprint and what is wanted."""
        ...

    def write(self, prompts: Sequence[str], wanted: Wanted) -> list[list[tuple[str, bool]]]:
        """For each prompt the wanted texts, and whether the model ended it by itself.

        Raises:
            LimbeckError: it cannot be asked, or does not write as is wanted.
        """
        ...

    def worth(self, prompts: Sequence[str], wanted: Wanted) -> tuple[int, int]:
        """Tokens that would be sent and written at most for what it has not written yet. Nothing is sent."""
        ...
