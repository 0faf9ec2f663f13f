"""What language models write: its diversity, repetition, length, and likeness to reference texts.

A text is a sequence of tokens: the model's ids, which depend on its tokenizer, or the letters of a string, which every script
has and models with different tokenizers share. Words between spaces are not what is counted: many scripts have none. None
stands where there is nothing to measure, as in an empty text. Cut texts before their end token, see `before_end`: padding
would count as repetition.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from limbeck.errors import LimbeckError
from limbeck.evidence.exam import Floats

Tokens = Any  # a sequence of hashable tokens, a string, or a tensor or array [T] of ids
_STOPS: Final = " .,:;!?…。、؟।"  # after NFKC, which makes full-width stops plain


@dataclass(frozen=True)
class Lengths:
    """How long texts are, in tokens. Neither direction is better: compare with the teacher's and with the references."""

    mean: float
    median: float
    shortest: int
    longest: int
    empty: float
    """The share of texts that are empty."""


def before_end(tokens: Tokens, end_tokens: Collection[int]) -> list[Hashable]:
    """The tokens before the first of ``end_tokens``; all of them where there is none."""
    listed = _listed(tokens)
    return list(listed[: next((at for at, token in enumerate(listed) if token in end_tokens), len(listed))])


def ended_share(texts: Sequence[Tokens], end_tokens: Collection[int]) -> float | None:
    """The share of texts with one of ``end_tokens``; the others were cut at the longest length, which it depends on.

    Higher is better up to the share of the references, whose answers are whole.
    """
    return float(np.mean([any(token in end_tokens for token in _listed(one)) for one in texts])) if len(texts) else None


def lengths(texts: Sequence[Tokens]) -> Lengths | None:
    """`Lengths` of the texts."""
    if not len(texts):
        return None
    counts = np.array([len(_listed(one)) for one in texts])
    return Lengths(
        mean=float(counts.mean()),
        median=float(np.median(counts)),
        shortest=int(counts.min()),
        longest=int(counts.max()),
        empty=float((counts == 0).mean()),
    )


def distinct_n(texts: Sequence[Tokens], n: int, first: int | None = None) -> float | None:
    """Different n-grams as a share of all n-grams of all texts together, in (0, 1] (Li et al. 2016, arXiv:1510.03055).

    Higher is more diverse, as noise is too. It falls with the length and the number of texts: compare equal numbers of them,
    and only their ``first`` tokens.
    """
    grams = [gram for one in texts for gram in _grams(_listed(one)[:first], n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(tokens: Tokens, n: int = 4) -> float | None:
    """The share of a text's n-grams that stood in it before, in [0, 1) (seq-rep-n: Welleck et al. 2020, arXiv:1908.04319).

    Lower is better, down to that of the references, which repeat themselves too. It grows with the length.
    """
    grams = list(_grams(_listed(tokens), n))
    return 1 - len(set(grams)) / len(grams) if grams else None


def longest_loop(tokens: Tokens, times: int = 3) -> int:
    """The length of the longest stretch that is one block again and again, at least ``times``; 0 if there is none.

    Lower is better. Dots, rules and indentation are loops as well, and one changed token breaks a loop in two.
    """
    _demand(times, 2, "times")
    listed, numbers = _listed(tokens), dict[Hashable, int]()
    ids = np.array([numbers.setdefault(token, len(numbers)) for token in listed], dtype=np.int64)
    longest = 0
    for period in range(1, len(ids) // times + 1):
        # a run of r tokens that are equal to those a period later is a loop of r + period tokens
        breaks = np.flatnonzero(np.concatenate([[True], ids[period:] != ids[:-period], [True]]))
        run = int(np.diff(breaks).max()) - 1
        if run >= (times - 1) * period:
            longest = max(longest, run + period)
    return longest


def folded(text: str) -> str:
    """For any language: without case, width, surplus space, and stops at the end. By NFKC 10² reads as 102."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(_STOPS)


def squad(text: str) -> str:
    """SQuAD's (Rajpurkar et al. 2016), for English only: small letters, no ASCII punctuation, no a, an or the.

    Not for numbers: 1.5 becomes 15 and -3 becomes 3.
    """
    kept = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())  # between other punctuation too, as its script does


def exact_match(
    answers: Sequence[str],
    references: Sequence[str | Collection[str]],
    normalise: Callable[[str], str] = str.strip,
) -> Floats:
    """1 where an answer is its reference, or one of several, both normalised; 0 elsewhere: float64 [N]. Higher is better.

    ``normalise``: ``str.strip``, `folded` for any language, `squad` for English. What it leaves nothing of stays, such as the
    choice A under `squad`, which an empty answer would match. An answer within a sentence does not match. The scores of two
    models are paired by `item_bootstrap`.

    Raises:
        LimbeckError: answers and references are not equally many, or one has no reference.
    """
    if len(answers) != len(references):
        raise LimbeckError(
            f"There are {len(answers)} answers to {len(references)} references: give one for each answer."
        )
    accepted = [(one,) if isinstance(one, str) else tuple(one) for one in references]
    if () in accepted:
        raise LimbeckError(f"Answer {accepted.index(())} has no reference: leave it out, or give what would be right.")

    def form(text: str) -> str:
        return normalise(text) or text.strip().casefold()

    pairs = zip(answers, accepted, strict=True)
    return np.array([form(said) in map(form, right) for said, right in pairs], dtype=np.float64)


def rouge_l(tokens: Tokens, reference: Tokens) -> float:
    """F1 of the longest common subsequence, in [0, 1] (ROUGE-L, Lin 2004); without stemming. Higher is better.

    ``2 LCS / (len(tokens) + len(reference))``. Two empty texts are equal: 1. It sees order and wording, not meaning, and
    letters agree more by chance than tokens do.
    """
    ours, theirs = _listed(tokens), _listed(reference)
    both = len(ours) + len(theirs)
    return 2 * longest_common_subsequence(ours, theirs) / both if both else 1.0


def longest_common_subsequence(a: Tokens, b: Tokens) -> int:
    """Its length, by whole rows of the table at once, as the bits of an integer (Hyyrö 2004)."""
    ours, at = _listed(a), dict[Hashable, int]()
    for place, token in enumerate(ours):
        at[token] = at.get(token, 0) | 1 << place
    full = row = (1 << len(ours)) - 1
    for token in _listed(b):
        met = row & at.get(token, 0)
        row = ((row + met) | (row - met)) & full
    return len(ours) - row.bit_count()


def _listed(tokens: Tokens) -> Sequence[Hashable]:
    """Numbers of a tensor are equal where they are; its elements are not."""
    return tokens.tolist() if hasattr(tokens, "tolist") else tokens  # type: ignore[no-any-return]


def _grams(tokens: Sequence[Hashable], n: int) -> Iterator[tuple[Hashable, ...]]:
    _demand(n, 1, "n")
    return zip(*(tokens[start:] for start in range(n)), strict=False)


def _demand(value: int, least: int, name: str) -> None:
    if value < least:
        raise LimbeckError(f"{name} is {value}: it must be at least {least}.")
