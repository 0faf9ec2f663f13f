"""Synonyms of a word: from WordNet, or from a file for any language."""

import csv
import random
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final, Protocol, final

from limbeck.config import digest
from limbeck.data.writing.wording import Wording
from limbeck.data.writing.wordnet import wordnet
from limbeck.errors import DataError

_BETWEEN: Final = re.compile("[,;\uff0c\u3001\uff1b]")  # and their likes of Chinese and Japanese


class Synonyms(Protocol):
    """Who knows synonyms."""

    @property
    def known(self) -> frozenset[str]:
        """Entries of several letters in a script without spaces, which are one word each."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the content."""
        ...

    def of(self, word: str) -> tuple[str, ...]:
        """Other words for ``word``, none if it has no entry."""
        ...


@final
class Listed:
    """A file with lines ``word<TAB>synonym, synonym``, or CSV whose first column is the word.

    Raises:
        DataError: it cannot be read, or a line has no synonym.
    """

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"The synonyms in {path} cannot be read: {error}. Save them as text in UTF-8.") from error
        self._entries: dict[str, tuple[str, ...]] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            word, *others = line.split("\t") if "\t" in line else next(csv.reader([line]))
            synonyms = [one.strip() for cell in others for one in _BETWEEN.split(cell) if one.strip()]
            if not word.strip() or not synonyms:
                raise DataError(
                    f"{path}, line {number}: {line[:60]!r} is no word with synonyms: 'word<TAB>synonym, synonym'."
                )
            self._entries[word.strip().lower()] = tuple(dict.fromkeys(synonyms))
        if not self._entries:
            raise DataError(f"{path} has no synonyms: write lines 'word<TAB>synonym, synonym'.")

    @cached_property
    def known(self) -> frozenset[str]:
        """Entries of several letters in a script without spaces."""
        parts = {word: Wording.of(word) for word in self._entries}
        return frozenset(word for word, part in parts.items() if len(part) > 1 and not any(part.gaps))

    @cached_property
    def fingerprint(self) -> str:
        """Names the entries."""
        return digest(["synonyms", {word: list(others) for word, others in self._entries.items()}])

    def of(self, word: str) -> tuple[str, ...]:
        """The synonyms of its line, in their order."""
        return self._entries.get(word.lower(), ())


def synonyms(place: str | None) -> Synonyms:
    """From a WordNet folder, a file, or the WordNet that is installed.

    Raises:
        DataError: there is none there.
    """
    if place is None:
        return wordnet()
    path = Path(place).expanduser()
    if path.is_dir():
        return wordnet(path)
    if not path.is_file():
        raise DataError(f"There are no synonyms at {place!r}: name a WordNet folder or a file of synonyms.")
    return _listed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _listed(path: Path, _changed: int) -> Listed:
    return Listed(path)


@lru_cache(maxsize=1)
def stop_words() -> frozenset[str]:
    """English words that carry a sentence rather than its meaning (scikit-learn's list)."""
    state = random.getstate()  # what is imported here draws from it
    try:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    finally:
        random.setstate(state)
    return frozenset(ENGLISH_STOP_WORDS)


def replaceable(word: str) -> bool:
    """Whether the word may give way to another: it has letters, and is neither a stop word nor a contraction of one."""
    stem = word.lower().replace("\u2019", "'").partition("'")
    return not stem[1] and stem[0] not in stop_words() and any(letter.isalpha() for letter in word)
