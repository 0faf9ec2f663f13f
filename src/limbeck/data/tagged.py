"""Texts with a tag for each word: CoNLL files and JSON lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from limbeck.config import Config
from limbeck.data.lines import JSON_LINES, decoded, json_lines
from limbeck.data.raw import Raw, existing, rows_of
from limbeck.data.task import ASKED, Task
from limbeck.data.token_tasks import Tags
from limbeck.errors import DataError

_DOCUMENT = "-DOCSTART-"

Tagging = tuple[tuple[str, ...], list[Any]]


class Tagged(Config):
    """A file of texts whose words have tags: named entities (``B-PER``, ``I-PER``, ``O``), parts of speech.

    JSON lines (.jsonl) such as ``{"words": ["In", "Rome"], "tags": ["O", "B-LOC"]}``, or a CoNLL file: a word and its tag a
    line, the tag in the last column, an empty line between texts. A text without tags is trained on without them.
    """

    name: Literal["tagged"] = "tagged"
    """The kind of source."""
    path: str
    """The file."""
    words: str = "words"
    """What the list of words is called in JSON lines."""
    tags: str = "tags"
    """What the list of tags is called in JSON lines."""
    validation: str | None = None
    """A second file, to choose by; drawn from the first if left out."""
    test: str | None = None
    """A further file, to judge by; drawn from the first if left out."""
    encoding: str = "utf-8"
    """How the files' letters are encoded."""

    def load(self, task: Task | None = None) -> Raw:
        """The texts as tuples of words; their labels are tags, whatever the ``task``.

        Raises:
            DataError: a file is missing or malformed, or a text has another number of tags than of words.
        """
        files = [existing(place) if place else None for place in (self.path, self.validation, self.test)]
        parts = [list(self._texts(file)) if file else [] for file in files]
        labels, names = Tags().read([tags for part in parts for _, tags in part], self.path)
        texts = [words for part in parts for words, _ in part]
        _, validation, test = rows_of([len(part) for part in parts])
        return Raw("texts", texts, labels, names, validation, test, self.path, Tags())

    def _texts(self, path: Path) -> Iterator[Tagging]:
        content = decoded(path, self.encoding)
        found = self._json(path, content) if path.suffix in JSON_LINES else _conll(path, content)
        for words, tags, where in found:
            if not words or not all(isinstance(word, str) and word.strip() for word in words):
                raise DataError(f"{where}: the words are no list of words, or one of them is empty.")
            if len(words) != len(tags):
                raise DataError(f"{where}: there are {len(words)} words but {len(tags)} tags.")
            yield tuple(words), list(tags)

    def _json(self, path: Path, content: str) -> Iterator[tuple[Any, Any, str]]:
        for number, row in enumerate(json_lines(path, content), 1):
            where = f"{path}, text {number}"
            words, tags = row.get(self.words), row.get(self.tags)
            if not isinstance(words, list) or not (tags is None or isinstance(tags, list)):
                raise DataError(
                    f"{where} has no list {self.words!r}, or {self.tags!r} is none; it has {', '.join(map(repr, row))}. Name "
                    "them in 'words' and 'tags'."
                )
            yield words, [ASKED] * len(words) if tags is None else tags, where


def _conll(path: Path, content: str) -> Iterator[tuple[list[str], list[Any], str]]:
    words, tags, width = list[str](), list[Any](), None
    for number, line in enumerate([*content.splitlines(), ""], 1):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if cells and cells[0] == _DOCUMENT:
            continue
        if cells:
            width = width or len(cells)
            if len(cells) != width:
                raise DataError(f"{path}, line {number}: {len(cells)} columns where the lines before it have {width}.")
            words.append(cells[0])
            tags.append(cells[-1] if len(cells) > 1 else ASKED)
        elif words:
            yield words, tags, f"{path}, line {number}"
            words, tags, width = [], [], None
