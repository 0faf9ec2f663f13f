"""Synonyms from the database files of WordNet, as ``man 5 wndb`` describes them."""

import os
import re
import sys
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final, final

from limbeck.config import digest
from limbeck.data import fingerprint
from limbeck.errors import DataError

_PARTS: Final = ("noun", "verb", "adj", "adv")
_SENSES: Final = 2
_MARKER: Final = re.compile(r"\((?:a|p|ip)\)$")  # where an adjective may stand
_FILES: Final = tuple(f"{kind}.{part}" for kind in ("index", "data") for part in _PARTS)


@final
class WordNet:
    """A folder with ``index.noun``, ``data.noun`` and their like for verbs, adjectives and adverbs.

    Raises:
        DataError: one of these files is not there.
    """

    known: Final = frozenset[str]()

    def __init__(self, folder: Path) -> None:
        if missing := [name for name in _FILES if not (folder / name).is_file()]:
            raise DataError(f"{folder} is no WordNet folder: {missing[0]} is missing. It holds {', '.join(_FILES)}.")
        self.folder = folder
        self._answers: dict[str, tuple[str, ...]] = {}

    @cached_property
    def fingerprint(self) -> str:
        """Names the content of the files."""
        return digest(["wordnet", [fingerprint.file(self.folder / name) for name in _FILES]])

    def of(self, word: str) -> tuple[str, ...]:
        """The other words of the commonest senses of ``word``, in small letters and the order of the senses; none for a word
        that has large letters, which may be a name.

        Two senses of the part of speech that the word is mostly used in, as far as WordNet's own counts tell: among all
        senses there is mostly one that no reader would think of. Inflected forms have no entry of their own.

        Raises:
            DataError: the files are damaged.
        """
        if word not in self._answers:
            found = dict.fromkeys(self._synonyms(word) if word.islower() else ())
            self._answers[word] = tuple(other for other in found if other != word and other.islower())
        return self._answers[word]

    def meanings(self) -> dict[str, str]:
        """The definition of the commonest sense of each word of small letters that WordNet's own counts met in a text.

        Where a word is of several parts of speech, of the one that it is mostly used in.

        Raises:
            DataError: the files are damaged.
        """
        found: dict[str, tuple[int, str]] = {}
        for part, lines in self._index.items():
            for lemma, rest in lines.items():
                word = lemma.decode()
                if not word.isalpha():
                    continue
                try:
                    fields = rest.split()
                    counted = int(fields[-1 - int(fields[1])])
                    if counted > found.get(word, (0, ""))[0]:
                        found[word] = (counted, self._gloss(part, word, int(fields[-int(fields[1])])))
                except (ValueError, IndexError) as error:
                    raise DataError(
                        f"{self.folder} is damaged: its entry of {word!r} cannot be read ({error})."
                    ) from error
        return {word: gloss for word, (_, gloss) in found.items() if gloss}

    def _gloss(self, part: str, word: str, place: int) -> str:
        """The definition at ``place`` without its examples; empty if the word there has large letters."""
        if word not in self._synset(part, place):
            return ""
        content = self._data[part]
        _, _, told = content[place : content.find(b"\n", place)].decode().partition(" | ")
        return told.partition('; "')[0].strip()

    def _synonyms(self, lemma: str) -> list[str]:
        key = lemma.encode()
        entries = [(part, lines[key].split()) for part, lines in self._index.items() if key in lines]
        if not entries:
            return []
        try:
            # pos, synsets, pointers, their symbols, senses, tagged senses, then where each synset stands
            part, fields = max(entries, key=lambda entry: int(entry[1][-1 - int(entry[1][1])]))
            places = fields[-int(fields[1]) :][:_SENSES]
            return [word for place in places for word in self._synset(part, int(place))]
        except (ValueError, IndexError) as error:
            raise DataError(f"{self.folder} is damaged: its entry of {lemma!r} cannot be read ({error}).") from error

    def _synset(self, part: str, place: int) -> list[str]:
        content = self._data[part]
        # offset, file, type, how many words (hexadecimal), then each word with a number
        fields = content[place : content.find(b"\n", place)].decode().split(" ")
        if fields[0] != f"{place:08d}":
            raise ValueError(f"no synset begins at byte {place}")
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        return [_MARKER.sub("", word).replace("_", " ") for word in words]

    @cached_property
    def _index(self) -> dict[str, dict[bytes, bytes]]:
        def read(part: str) -> dict[bytes, bytes]:
            lines = (self.folder / f"index.{part}").read_bytes().splitlines()
            pairs = (line.partition(b" ") for line in lines)
            return {lemma: rest for lemma, _, rest in pairs if lemma}  # the lines of the licence begin with a space

        return {part: read(part) for part in _PARTS}

    @cached_property
    def _data(self) -> dict[str, bytes]:
        return {part: (self.folder / f"data.{part}").read_bytes() for part in _PARTS}


@lru_cache(maxsize=4)
def wordnet(folder: Path | None = None) -> WordNet:
    """The WordNet in ``folder``, or the one that is installed; its files are read when they are first asked for.

    Raises:
        DataError: there is none.
    """
    if folder is not None:
        return WordNet(folder)
    for place in _places():
        if (place / _FILES[0]).is_file():
            return WordNet(place)
    raise DataError(
        "Synonyms come from WordNet, which was not found here. Install the Debian or Ubuntu package 'wordnet-base' (apt "
        "install wordnet-base), or NLTK's corpus, unpacked (python -m nltk.downloader wordnet); or name its folder, or a "
        "file with lines 'word<TAB>synonym, synonym', as 'synonyms-from'."
    )


def _places() -> list[Path]:
    """Where WordNet looks for itself, where Debian and where NLTK put it."""
    own = [os.environ.get("WNSEARCHDIR"), *(f"{home}/dict" for home in [os.environ.get("WNHOME")] if home)]
    roots = [*os.environ.get("NLTK_DATA", "").split(os.pathsep), str(Path.home() / "nltk_data")]
    roots += [f"{sys.prefix}/{inside}" for inside in ("nltk_data", "share/nltk_data", "lib/nltk_data")]
    roots += [f"/usr/{inside}/nltk_data" for inside in ("share", "local/share", "lib", "local/lib")]
    found = [*own, "/usr/share/wordnet", *(f"{root}/corpora/wordnet" for root in roots if root)]
    return [Path(place) for place in found if place]
