"""One of several equal parts of a labelling: what one machine does."""

import re
from dataclasses import dataclass
from typing import Self

from limbeck.errors import LimbeckError


@dataclass(frozen=True)
class Part:
    """Part ``number`` of ``of``, counted from 1. The batches of a labelling are shared out in turn."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise LimbeckError(
                f"There is no part {self.number}/{self.of}: with N machines write 1/N on the first one, and N/N on the last."
            )

    @classmethod
    def read(cls, said: str) -> Self:
        """What ``1/4`` says.

        Raises:
            LimbeckError: it is not of that form, or there is no such part.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", said.strip())
        if found is None:
            raise LimbeckError(f"A part is written as 1/4, the first of four, and not as {said!r}.")
        return cls(*map(int, found.groups()))

    def has(self, batch: int) -> bool:
        """Whether batch 0, 1, ... of the whole labelling is in it."""
        return batch % self.of == self.number - 1


WHOLE = Part()
