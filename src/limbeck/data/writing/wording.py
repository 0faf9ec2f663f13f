"""A text as its words and what stands between them, in any script."""

import re
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import chain, zip_longest
from typing import Final, Self, final

# Scripts without spaces between words, where each letter is a word: kana, Chinese characters, Thai, Lao, Tibetan, Burmese,
# Khmer.
_UNSPACED: Final = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
)
_JOINERS: Final = "\u200c\u200d"  # inside words of Persian and of Indian scripts
_PLANES: Final = min(sys.maxunicode + 1, 0x20000)  # beyond there is no mark that belongs to a word


@final
@dataclass(frozen=True)
class Wording:
    """``words`` and ``gaps``, one more of these: what stands before, between and after the words.

    A word is a run of letters, digits and their marks, with apostrophes inside; in a script without spaces it is one letter.
    """

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        """The words of a text; ``str`` gives the text back, whatever it holds."""
        words, gaps, end = [], [], 0
        for found in _pattern().finditer(text):
            words.append(found.group())
            gaps.append(text[end : found.start()])
            end = found.end()
        return cls(tuple(words), (*gaps, text[end:]))

    def __str__(self) -> str:
        return "".join(chain.from_iterable(zip_longest(self.gaps, self.words, fillvalue="")))

    def __len__(self) -> int:
        return len(self.words)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each word begins and ends in the text."""
        found, end = [], 0
        for gap, word in zip(self.gaps, self.words, strict=False):
            start = end + len(gap)
            end = start + len(word)
            found.append((start, end))
        return found

    def joined(self, known: frozenset[str]) -> Self:
        """The same text, in which runs of words without a gap that are ``known`` are one word, the longest first."""
        if not known:
            return self
        longest = max(map(len, known))
        words, gaps, place = [], [], 0
        while place < len(self.words):
            end = place + 1
            run = self.words[place]
            for last in range(place + 1, len(self.words)):
                run += self.words[last]
                if self.gaps[last] or len(run) > longest:
                    break
                if run in known:
                    end = last + 1
            words.append("".join(self.words[place:end]))
            gaps.append(self.gaps[place])
            place = end
        return type(self)(tuple(words), (*gaps, self.gaps[-1]))

    def replaced(self, new: dict[int, str]) -> Self:
        """The same text with other words at some places, in their case."""
        words = tuple(cased(new[place], word) if place in new else word for place, word in enumerate(self.words))
        return type(self)(words, self.gaps)

    def inserted(self, word: str, place: int) -> Self:
        """One word more, before the word at ``place`` (0..len), set apart by a space where the script has any."""
        between = "" if unspaced(word) else " "
        if place == len(self.words):  # before what ends the text
            last = (self.gaps[-1],) if not self.words else (between, self.gaps[-1])
            return type(self)((*self.words, word), (*self.gaps[:-1], *last) if self.words else ("", *last))
        words = (*self.words[:place], word, *self.words[place:])
        return type(self)(words, (*self.gaps[: place + 1], between, *self.gaps[place + 1 :]))

    def swapped(self, one: int, other: int) -> Self:
        """The same text with two words in each other's place."""
        words = list(self.words)
        words[one], words[other] = words[other], words[one]
        return type(self)(tuple(words), self.gaps)

    def without(self, place: int) -> Self:
        """The text without a word; of the two gaps around it the one with punctuation stays."""
        before, after = self.gaps[place : place + 2]
        if place == 0:
            gap = before
        elif place == len(self.words) - 1:
            gap = after
        else:
            gap = after if after.strip() else before
        words = (*self.words[:place], *self.words[place + 1 :])
        return type(self)(words, (*self.gaps[:place], gap, *self.gaps[place + 2 :]))


def cased(word: str, like: str) -> str:
    """The word in the case of another: all large letters, a large first one, or as it is."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def unspaced(text: str) -> bool:
    """Whether the last letter of ``text`` is of a script without spaces."""
    return bool(re.search(f"[{_UNSPACED}]$", text))


@cache
def _pattern() -> re.Pattern[str]:
    marks = "".join(_ranges(code for code in range(_PLANES) if unicodedata.category(chr(code))[0] == "M")) + _JOINERS
    letter = rf"(?![{_UNSPACED}])[^\W_]"
    run = rf"{letter}(?:{letter}|[{marks}])*"
    return re.compile(rf"(?=[^\W_])[{_UNSPACED}][{marks}]*|{run}(?:['\u2019]{run})*")


def _ranges(codes: Iterable[int]) -> Iterable[str]:
    """Neighbouring codes as ranges of a pattern."""
    start = end = -2
    for code in codes:
        if code != end + 1:
            if end >= 0:
                yield f"{chr(start)}-{chr(end)}"
            start = code
        end = code
    yield f"{chr(start)}-{chr(end)}"
