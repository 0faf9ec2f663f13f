"""What a teacher costs that is paid for what it is asked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from limbeck.teachers.author import Wanted


@dataclass(frozen=True, slots=True)
class Expense:
    """What is still to be asked, less the answers that are kept: tokens sent (``input``) and written (``output``).

    Money is 0 where no price was given (``priced``). ``left``: what the limits leave, empty where there are none; ``beyond``:
    whether this passes it.
    """

    requests: int
    input: int
    output: int
    money: float
    priced: bool
    spent_money: float
    left: str
    beyond: bool


@runtime_checkable
class Charged(Protocol):
    """What a `Teacher` may be besides."""

    def marking(self, texts: Iterable[tuple[int, ...]]) -> Expense:
        """What `Teacher.observe` takes for these texts, by their tokens: each once. Nothing is sent."""
        ...

    def writing(self, prompts: Sequence[str], wanted: Wanted, marked: bool) -> Expense:
        """What `Author.write` takes at most, and, if what is written is to be ``marked``, that too. Nothing is sent."""
        ...
