"""Facts beside a text: what a table knows about what the text mentions."""

import csv
import io
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final, Literal, final

from pydantic import field_validator
from torch import Tensor

from limbeck.config import digest
from limbeck.data.writing.wording import Wording, unspaced
from limbeck.data.writing.writer import FACTS, Writing, chances
from limbeck.errors import DataError

_COLUMNS: Final = ("subject", "relation", "object")
_ENDS: Final = ".!?\u2026\u3002\uff01\uff1f"
_CLOSING: Final = "\"'\u2019\u201d\u00bb)]\uff09\u300d\u300f"
_VERSION: Final = 1  # of how a text and a fact are put together


class Facts(Writing):
    """A text that mentions a subject is followed by one fact about it, as a sentence; other texts stay as they are."""

    name: Literal["facts"] = "facts"
    path: str
    """A CSV file in UTF-8 with the columns ``subject``, ``relation`` and ``object``."""
    template: str = "{subject} {relation} {object}."
    """How a fact is said."""

    @field_validator("template")
    @classmethod
    def _names_the_fact(cls, template: str) -> str:
        try:
            said = template.format(subject="\0s", relation="\0r", object="\0o")
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError("write it with {subject}, {relation} and {object} in it, and no other braces") from error
        if "\0s" not in said or "\0o" not in said:
            raise ValueError("it must have {subject} and {object} in it")
        return template

    @property
    def fingerprint(self) -> str:
        """Names the settings and the facts, wherever these lie.

        Raises:
            DataError: there are no facts.
        """
        return digest([_VERSION, "facts", self.share, self.template, [list(fact) for fact in self._known.facts]])

    def write(self, texts: Sequence[str], ids: Tensor, views: Tensor) -> list[str]:
        """See `Writer.write`. Each text by itself: a pure function of (text, id, view)."""
        written = [texts[row] for row in ids.tolist()]
        drawn = chances(FACTS, ids, views)
        for place in self.chosen(ids, views):
            if facts := self._known.about(written[place]):
                subject, relation, other = drawn[place].pick(facts)
                said = self.template.format(subject=subject, relation=relation, object=other)
                written[place] = followed(written[place], said)
        return written

    @cached_property
    def _known(self) -> "Table":
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise DataError(f"There is no file of facts at {self.path!r}.")
        return _table(path, path.stat().st_mtime_ns)


Fact = tuple[str, str, str]


@final
class Table:
    """Facts by what they are about.

    Raises:
        DataError: the file cannot be read, has other columns, or a fact is incomplete; names the line.
    """

    def __init__(self, path: Path) -> None:
        try:
            lines = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
            rows = [(lines.line_num, row) for row in lines]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"The facts in {path} cannot be read: {error}. Save them as CSV in UTF-8.") from error
        if missing := [column for column in _COLUMNS if column not in (lines.fieldnames or ())]:
            found = ", ".join(map(repr, lines.fieldnames or ())) or "none"
            raise DataError(
                f"{path} has no column {missing[0]!r}. Its columns: {found}; facts need {', '.join(_COLUMNS)}."
            )
        facts: list[Fact] = []
        self._by_word: dict[str, list[tuple[str, int]]] = {}  # first word: subjects and where it begins in each
        self._about: dict[str, list[Fact]] = {}
        for number, row in rows:
            subject, relation, other = (" ".join((row[column] or "").split()) for column in _COLUMNS)
            folded = subject.casefold()
            wording = Wording.of(folded)
            if not len(wording) or not other:
                raise DataError(
                    f"{path}, line {number}: a fact needs a subject with a letter or digit in it, and an object."
                )
            facts.append((subject, relation, other))
            if folded not in self._about:
                self._by_word.setdefault(wording.words[0], []).append((folded, len(wording.gaps[0])))
            self._about.setdefault(folded, []).append(facts[-1])
        if not facts:
            raise DataError(f"{path} has no facts.")
        for subjects in self._by_word.values():
            subjects.sort(key=lambda one: -len(one[0]))
        self.facts = tuple(facts)

    def about(self, text: str) -> list[Fact]:
        """All facts about the subjects that ``text`` mentions: whole words in any case, of overlapping ones the longest."""
        folded = text.casefold()
        spans = (wording := Wording.of(folded)).spans
        inside = {letter for start, end in spans for letter in range(start + 1, end)}
        found: dict[str, None] = {}
        reached = 0
        for word, (start, _) in zip(wording.words, spans, strict=True):
            for subject, before in self._by_word.get(word, ()):
                begin = start - before
                end = begin + len(subject)
                if begin >= reached and folded.startswith(subject, begin) and end not in inside:
                    found[subject] = None
                    reached = end
                    break
        return [fact for subject in found for fact in self._about[subject]]


@lru_cache(maxsize=4)
def _table(path: Path, _changed: int) -> Table:
    return Table(path)


def followed(text: str, sentence: str) -> str:
    """``text`` and a sentence after it, each ended; without a space in a script that has none."""
    text = text.rstrip()
    last = text.rstrip(_CLOSING)[-1:]
    close = unspaced(last) or last in _ENDS[-3:]
    ended = text if last and last in _ENDS else text + ("\u3002" if close else ".")
    return ended + ("" if close else " ") + sentence
