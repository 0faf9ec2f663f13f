"""Where data comes from: one config a source, each with ``load() -> Raw``. `Source` is any of them."""

from typing import TYPE_CHECKING, Literal

from limbeck.config import Config, choice
from limbeck.data.folders import ImageFolder
from limbeck.data.hub import HuggingFaceData
from limbeck.data.idx import FashionMnist, Idx, Mnist5k
from limbeck.data.movies import MovieSentences
from limbeck.data.raw import Raw
from limbeck.data.spreadsheet import TextFile
from limbeck.errors import DataError


class InMemory(Config):
    """Rows that a Python program holds: ``Data(source="in-memory").load(raw=in_memory(...))``."""

    name: Literal["in-memory"] = "in-memory"
    """The kind of source."""

    def load(self) -> Raw:
        """Never works: what is in memory has to be given.

        Raises:
            DataError: always.
        """
        raise DataError("The source 'in-memory' is for Python programs, which pass their rows: load(raw=in_memory(...)).")


if TYPE_CHECKING:
    Source = Mnist5k | FashionMnist | Idx | ImageFolder | TextFile | HuggingFaceData | MovieSentences | InMemory
else:
    Source = choice(Mnist5k, FashionMnist, Idx, ImageFolder, TextFile, HuggingFaceData, MovieSentences, InMemory)
