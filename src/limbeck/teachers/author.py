"""`Author`: a teacher that writes its texts where it is, from prompts as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

Name: TypeAlias = bytes | int
"""A token: what it is written as, or its number."""
Step: TypeAlias = tuple[tuple[Name, float], ...]
"""The written token and, after it, the likeliest in its place, likeliest first; each with its log-probability in nats."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Texts of at most ``most`` tokens, ``samples`` after each prompt, drawn at ``temperature``.

    0: the likeliest token each time.
    """

    most: int
    samples: int = 1
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Text:
    """What was written; whether the author ended it by itself; and, of one that tells, how probable each token was."""

    text: str
    ended: bool
    steps: tuple[Step, ...] = ()


@runtime_checkable
class Author(Protocol):
    """What a `Teacher` may be besides. One whose model is here need not be: `limbeck.models.writers` write with that."""

    @property
    def manner(self) -> str:
        """Names whatever its texts hang on beside the teacher's fingerprint and what is wanted."""
        ...

    def write(self, prompts: Sequence[str], wanted: Wanted) -> list[list[Text]]:
        """For each prompt the wanted texts. What it wrote before, it gives again.

        Raises:
            LimbeckError: it cannot be asked, or does not write as is wanted.
        """
        ...
