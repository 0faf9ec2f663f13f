"""Questions for the meaning of words, and WordNet's definitions as answers."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from limbeck.config import Config
from limbeck.data.raw import Raw
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.data.writing.wordnet import wordnet
from limbeck.errors import DataError

_WORD: Final = "{word}"


class Definitions(Config):
    """Instructions and answers for language models: what English words mean, by the WordNet that is installed.

    A row is a word of small letters that WordNet's own counts met in texts, and the definition of its commonest sense (Fellbaum
    1998). Debian and Ubuntu have WordNet as ``wordnet-base``; its licence allows any use.
    """

    name: Literal["definitions"] = "definitions"
    """The kind of source."""
    ask: str = "What does the word {word} mean?"
    """The question, with ``{word}`` in it."""
    folder: str | None = None
    """The folder of WordNet's database files; null: where it is usually installed."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many words at most, evenly from all of them; null: all."""

    @model_validator(mode="after")
    def _asks_for_the_word(self) -> Self:
        if _WORD not in self.ask:
            raise ValueError(f"'ask' has no {_WORD} in it, so every question would be the same: {self.ask!r}")
        return self

    def load(self, task: Task = CLASSES) -> Raw:
        """Pairs of a question and a definition, in the order of the alphabet.

        Raises:
            DataError: WordNet is not there or damaged, or the task is not one of language models.
        """
        if task.gives != "tokens":
            raise DataError(
                f"Definitions are what a language model writes, and the task is {task.name!r}: write 'task: next-token' or "
                "'task: text-to-text'."
            )
        meanings = wordnet(None if self.folder is None else Path(self.folder).expanduser()).meanings()
        words = sorted(meanings)
        if not words:
            raise DataError("WordNet has no word with a definition that its counts met in a text.")
        if self.limit is not None and self.limit < len(words):
            words = [words[place * len(words) // self.limit] for place in range(self.limit)]
        items = [(self.ask.replace(_WORD, word), meanings[word]) for word in words]
        return Raw("texts", items, task.without_labels(len(items)), (), name="definitions", task=task)
