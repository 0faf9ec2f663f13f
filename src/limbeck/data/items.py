"""What a text is: a text, a pair of them, the words of one, or a question and a text; and where its tokens stand in it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from limbeck.data.batch import NO_LABEL
from limbeck.data.task import Reads
from limbeck.errors import DataError

Item = str | Sequence[str]
"""A text; a pair of texts, read together or each by itself; the words of a text; a question and a text."""
_HALF: Final = re.compile("[\ud800-\udfff]")
_WANTED: Final = {
    "texts": "a text, or a pair of texts,",
    "words": "the list of a text's words",
    "questions": "a pair of a question and a text",
    "pairs": "a pair of texts, or a text,",
    "sequences": "a text, or a prompt and its continuation,",
    "sources": "a pair of a text and what it is to be turned into",
}


def checked(item: Any, row: int, reads: Reads) -> Item:
    """The item as a tokenizer takes it. A text in place of its words is split at its spaces.

    Raises:
        DataError: it is something else, or has half a character in it.
    """
    if isinstance(item, str):
        found: Any = item.split() if reads == "words" else item
    else:
        found = list(item) if isinstance(item, list | tuple) else None
    parts = [found] if isinstance(found, str) else found or []
    pair = isinstance(found, list) and len(found) == 2
    fits = {"texts": isinstance(found, str) or pair, "words": isinstance(found, list), "questions": pair}
    fits["pairs"] = fits["sequences"] = fits["texts"]
    fits["sources"] = pair
    if not fits[reads] or not all(isinstance(part, str) for part in parts):
        kind = f"{type(item).__name__} of {len(item)}" if isinstance(item, list | tuple) else type(item).__name__
        raise DataError(f"row {row} is a {kind}, but {_WANTED[reads]} was expected.")
    for part in parts:
        if _HALF.search(part):
            raise DataError(f"row {row} holds half a character (a lone surrogate): {part[:60]!r}. Mend the text.")
    return found  # type: ignore[no-any-return]


def arguments(chunk: Sequence[Item], reads: Reads, first: int) -> dict[str, Any]:
    """How a tokenizer is asked about items that were `checked`: what is too long is cut, of a pair the longer one.

    Of a question and a text only the text is cut. ``first``: the row of the first item, for errors.

    Raises:
        DataError: some are texts and some are pairs.
    """
    if reads == "words":
        return {"text": list(chunk), "is_split_into_words": True, "truncation": True}
    pairs = [not isinstance(item, str) for item in chunk]
    if len(set(pairs)) > 1:
        other = first + pairs.index(not pairs[0])
        kinds = ("a pair of texts", "a single text") if pairs[0] else ("a single text", "a pair of texts")
        raise DataError(f"row {first} is {kinds[0]}, but row {other} is {kinds[1]}: give all of one kind.")
    if not any(pairs):
        return {"text": list(chunk), "truncation": True}
    both = {"text": [item[0] for item in chunk], "text_pair": [item[1] for item in chunk]}
    if reads == "questions":
        return {**both, "truncation": "only_second", "return_offsets_mapping": True}
    return {**both, "truncation": True}


def places(found: Any, row: int, reads: Reads) -> list[tuple[int, int]]:
    """Where each token of a tokenizer's answer stands, from (a place) to (the one after it); (-1, -1) for the others.

    Of ``words``: the first token of a word stands at that word. Of ``questions``: tokens of the text stand at its
    characters.
    """
    if reads == "questions":
        sides = zip(found.sequence_ids(row), found["offset_mapping"][row], strict=True)
        return [tuple(offset) if side == 1 else (-1, -1) for side, offset in sides]
    result, last = [], None
    for word in found.word_ids(row):
        result.append((word, word + 1) if word is not None and word != last else (-1, -1))
        last = word
    return result


def parts_of(items: Sequence[Item]) -> Iterator[str]:
    """All texts in the items."""
    for item in items:
        if isinstance(item, str):
            yield item
        else:
            yield from item


def paired(items: Sequence[Item], reads: Reads) -> bool:
    """Whether the items are pairs that are read together."""
    return reads not in ("words", "pairs", "sources") and len(items) > 0 and not isinstance(items[0], str)


def shown(item: Item, reads: Reads) -> str:
    """The item in one line."""
    return item if isinstance(item, str) else (" " if reads == "words" else " | ").join(item)


def tags_at(labels: Tensor, places: Tensor) -> Tensor:
    """Labels of words, int64 [n, words], at the first token of each, int64 [n, L]; those of other tokens do not exist.

    ``places``: of `places`, int64 [n, L, 2].
    """
    word = places[..., 0].long()
    at = labels.gather(1, word.clamp(0, max(0, labels.shape[1] - 1))) if labels.shape[1] else torch.zeros_like(word)
    return at.where(word >= 0, NO_LABEL)


def spans_at(labels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Spans of characters, int64 [n, 2], as spans of tokens, int64 [n, 4]; and whose answer was cut off, bool [n].

    ``places``: of `places`, int64 [n, L, 2]. The columns are those of `tasks.Spans`: first, last, and the bounds of the
    text among the tokens. What was cut off has no answer any more.

    Raises:
        DataError: the spans are of tokens already.
    """
    if labels.shape[1] != 2:
        raise DataError(
            f"A span of a text is two numbers, its first character and the one after it, not {labels.shape[1]}."
        )
    begin, end = places.unbind(2)
    text = begin >= 0
    start, stop = labels[:, :1], labels[:, 1:]
    inside = text & (end > start) & (begin < stop)
    lost = (stop[:, 0] > 0) & ((end.max(1).values < stop[:, 0]) | ~inside.any(1))
    kept = (stop[:, 0] > 0) & ~lost

    def first(where: Tensor) -> Tensor:
        return where.byte().argmax(1)

    def last(where: Tensor) -> Tensor:
        return where.shape[1] - 1 - where.flip(1).byte().argmax(1)

    none = torch.where(labels < 0, labels, 0)  # unknown, or no answer
    ends = torch.stack([first(inside), last(inside)], 1)
    bounds = torch.stack([first(text), last(text) + 1], 1) * text.any(1, keepdim=True)
    return torch.cat([torch.where(kept[:, None], ends, none), bounds], 1), lost


def words_said(
    labels: Tensor, items: Sequence[Any], places: Tensor, names: Sequence[str]
) -> list[list[tuple[str, str]]]:
    """The words of each item with their tags, ``""`` for those that no token stands for. ``labels``: int64 [n, L]."""
    result = []
    for item, row, place in zip(items, labels.tolist(), places[..., 0].tolist(), strict=True):
        words = item.split() if isinstance(item, str) else item
        tags = {word: names[label] for label, word in zip(row, place, strict=True) if word >= 0 and label >= 0}
        result.append([(word, tags.get(index, "")) for index, word in enumerate(words)])
    return result


def texts_said(labels: Tensor, items: Sequence[Any], places: Tensor) -> list[str]:
    """The letters of each item's text that its span holds; ``""`` for token 0 or an empty span. ``labels``: int64 [n, 4]."""
    result = []
    for (_, text), (first, last, *_), place in zip(items, labels.tolist(), places.tolist(), strict=True):
        begin, end = place[first][0], place[last][1]
        result.append(
            text[begin:end].strip() if min(begin, end) >= 0 else ""
        )  # empty where the last is before the first
    return result
