"""Filters by rules: words, patterns, lengths."""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from limbeck.config import Config
from limbeck.errors import DataError
from limbeck.extras import imported

_SECONDS: Final = 1.0  # a pattern that takes longer for one text takes for ever
_SHOWN: Final = 40
_JOINED: Final = ("Lo",)  # letters without capitals, such as of scripts that do not put spaces between words


class Words(Config):
    """Texts with one of these words or phrases in them; case and width of letters do not count.

    A word is found where it is no part of a longer one; in scripts without capitals, of which many have no spaces, anywhere.
    """

    name: Literal["words"] = "words"
    words: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)] | None = None
    """The words or phrases."""
    file: str | None = None
    """A text file with one of them a line; empty lines and those that begin with ``#`` do not count."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.words is None) == (self.file is None):
            raise ValueError("give either words, or the file that they are in")
        return self

    def reasons(self, texts: Sequence[str]) -> list[str | None]:
        """See `Filter.reasons`.

        Raises:
            DataError: the file cannot be read, or has no words.
        """
        words = self.words if self.words is not None else _lines(str(self.file))
        found = _compiled(r"|".join(_part(_plain(word)) for word in sorted(words, key=len, reverse=True)), 0)
        return [None if (hit := found.search(_plain(text))) is None else f"says {hit.group()!r}" for text in texts]


class Pattern(Config):
    """Texts in which a regular expression is found, such as that of addresses or numbers of cards."""

    name: Literal["pattern"] = "pattern"
    pattern: Annotated[str, Field(min_length=1)]
    """As Python's ``regex`` knows it, searched anywhere in the text."""
    case: bool = False
    """Whether case counts."""

    def reasons(self, texts: Sequence[str]) -> list[str | None]:
        """See `Filter.reasons`.

        Raises:
            DataError: it is no regular expression, or takes more than a second for one text.
        """
        regex = _regex()
        found = _compiled(self.pattern, 0 if self.case else int(regex.IGNORECASE))
        reasons: list[str | None] = []
        for text in texts:
            try:
                hit = found.search(text, timeout=_SECONDS)
            except TimeoutError as error:
                raise DataError(
                    f"The pattern {self.pattern[:_SHOWN]!r} of a filter takes more than {_SECONDS:.0f} s for a text of "
                    f"{len(text)} letters: make it simpler (repetitions of repetitions are what takes so long)."
                ) from error
            reasons.append(None if hit is None else f"has {hit.group()[:_SHOWN]!r}")
        return reasons


class Length(Config):
    """Texts that are shorter or longer than this, in characters but for white space at the ends."""

    name: Literal["length"] = "length"
    least: Annotated[int, Field(ge=0)] = 1
    """Shorter ones are rejected."""
    most: Annotated[int, Field(ge=1)] | None = None
    """Longer ones are rejected; null: none is too long."""

    @model_validator(mode="after")
    def _some_pass(self) -> Self:
        if self.most is not None and self.most < self.least:
            raise ValueError(f"no text has at least {self.least} characters and at most {self.most}")
        return self

    def reasons(self, texts: Sequence[str]) -> list[str | None]:
        """See `Filter.reasons`."""
        counts = [len(text.strip()) for text in texts]
        wrong = [count < self.least or (self.most is not None and count > self.most) for count in counts]
        return [f"has {count:,} characters" if bad else None for count, bad in zip(counts, wrong, strict=True)]


def _plain(text: str) -> str:
    """Without what the eye does not see: case, width, and letters that have no shape."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter for letter in folded if unicodedata.category(letter) != "Cf")


def _part(word: str) -> str:
    """A word as a pattern; between letters that belong to words with spaces between them it is not found."""
    words = word.split()
    ends = [unicodedata.category(letter) in _JOINED or not letter.isalnum() for letter in (words[0][0], words[-1][-1])]
    before, after = "" if ends[0] else r"(?<!\w)", "" if ends[1] else r"(?!\w)"
    return before + r"\s+".join(_regex().escape(one) for one in words) + after


def _lines(file: str) -> tuple[str, ...]:
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The words of a filter cannot be read from {file}: {error}.") from error
    found = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not found:
        raise DataError(f"{file} names no word for a filter: write one a line.")
    return found


def _regex() -> Any:
    return imported("regex", "Filters of texts need regex", "text", DataError)


@lru_cache(maxsize=64)
def _compiled(pattern: str, flags: int) -> Any:
    regex = _regex()
    try:
        return regex.compile(pattern, flags)
    except regex.error as error:
        raise DataError(f"The pattern {pattern[:_SHOWN]!r} of a filter is no regular expression: {error}.") from error
