"""`Writer`: what a text says under a view, a pure function of (id, view); and the chances that it draws from."""

from collections.abc import Sequence
from random import Random
from typing import Annotated, Final, Protocol, Self, TypeVar, runtime_checkable

from pydantic import Field, model_validator
from torch import Tensor

from limbeck.config import Config
from limbeck.data.draw import uniforms, words

Item = TypeVar("Item")
Share = Annotated[float, Field(ge=0, le=1)]

# What a random number is for; a new use takes a new number, so that old ones keep their draws.
WRITTEN, RULES, FACTS, MASKED, THERE, BACK = range(31, 37)


@runtime_checkable
class Writer(Protocol):
    """Writes texts anew. It never sees a label."""

    @property
    def fingerprint(self) -> str:
        """Names settings, files and weights: two writers with one fingerprint write the same."""
        ...

    def write(self, texts: Sequence[str], ids: Tensor, views: Tensor) -> list[str]:
        """One text for each of ``ids`` under its view (both int64 [B]); ``texts[id]`` itself under view 0.

        ``texts``: all texts of the table, so that a model can go through them in blocks that do not depend on the batch.
        """
        ...


class Writing(Config):
    """What all ways of writing have in common in a recipe."""

    share: Share = 0.5
    """The share of the views above 0 that are written at all; the others are the text as it is."""
    keep_labels: bool = True
    """Whether a text that was altered keeps the label of its original. If not, only the teacher speaks about it."""

    @model_validator(mode="after")
    def _some_label_stays(self) -> Self:
        if self.share == 1 and not self.keep_labels:
            raise ValueError("with 'keep-labels: false' a 'share' of 1 would leave no text with its label: lower it")
        return self

    @property
    def empty(self) -> bool:
        """Whether every view is the text as it is."""
        return self.share == 0

    def chosen(self, ids: Tensor, views: Tensor) -> list[int]:
        """The places in the batch, ascending, that are written: drawn by (id, view), never under view 0."""
        drawn = uniforms(WRITTEN, ids, views)[:, 0] < self.share
        return [place for place, (view, yes) in enumerate(zip(views.tolist(), drawn, strict=True)) if view > 0 and yes]


class Chance:
    """Random numbers of one (id, view), in order, for loops that do not know how many they need."""

    def __init__(self, seed: int) -> None:
        # of Python's generators `random` alone is promised to draw the same for ever
        self._next: Final = Random(seed).random  # noqa: S311 - no secret

    def number(self) -> float:
        """Uniform in [0, 1)."""
        return self._next()

    def below(self, count: int) -> int:
        """Uniform in 0..count-1."""
        return int(self._next() * count)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of ``items``."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """``count`` of ``items``, all if there are fewer, in drawn order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]


def chances(salt: int, ids: Tensor, views: Tensor) -> list[Chance]:
    """The chances of each (id, view), [B]."""
    return [Chance(int(word)) for word in words(salt, ids, views)[:, 0]]
