"""The sources that stand for themselves."""

from typing import TYPE_CHECKING, Any, Protocol

from limbeck.config import Config, choice
from limbeck.data.definitions import Definitions
from limbeck.data.digits import Mnist5k, UciDigits
from limbeck.data.folders import ImageFolder
from limbeck.data.hub import HuggingFace
from limbeck.data.idx import FashionMnist, Idx
from limbeck.data.movies import MovieSentences
from limbeck.data.pronunciations import Pronunciations
from limbeck.data.questions import Questions
from limbeck.data.raw import Raw
from limbeck.data.running import RunningText
from limbeck.data.tabular import TextFile
from limbeck.data.tagged import Tagged
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.data.tweets import Tweets

SOURCES: tuple[type[Config], ...] = (
    *(Mnist5k, UciDigits, FashionMnist, Idx, ImageFolder),
    *(TextFile, Tagged, Questions, HuggingFace, MovieSentences, Tweets, RunningText, Definitions, Pronunciations),
)
"""All of them."""


class Loaded(Protocol):
    """What a recipe's ``source`` names. A frozen config."""

    @property
    def name(self) -> Any:
        """As it is written in a recipe."""
        ...

    def __hash__(self) -> int: ...

    def load(self, task: Task = CLASSES) -> Raw:
        """Its rows.

        Raises:
            DataError: they are not there, damaged, or not what the task asks for.
        """
        ...

    def plain(self) -> dict[str, Any]:
        """Its settings as JSON types."""
        ...


if TYPE_CHECKING:
    Plain = Loaded
else:
    Plain = choice(*SOURCES)
