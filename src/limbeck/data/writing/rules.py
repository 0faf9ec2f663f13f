"""Easy data augmentation (EDA): synonyms, insertion, swaps and deletion."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from limbeck.config import digest
from limbeck.data.writing.synonyms import Synonyms, replaceable, synonyms
from limbeck.data.writing.wording import Wording
from limbeck.data.writing.writer import RULES, Chance, Writing, chances

_Alpha = Annotated[float, Field(ge=0, lt=1)]
_Others = Callable[[str], tuple[str, ...]]
_Rule = Callable[[Wording, int, Chance, _Others], Wording]
_VERSION: Final = 1  # of what the rules do: another one is another fingerprint


class Rules(Writing):
    """A view applies one of the rules that are switched on, drawn by (id, view) (EDA; Wei & Zou 2019, arXiv 1901.11196).

    Each alters ``n = max(1, floor(alpha * words))`` words. A text that a rule cannot alter, for want of synonyms or of a second
    word, stays as it is.
    """

    name: Literal["rules"] = "rules"
    synonyms: _Alpha = 0.0
    """Share of the words that give way to a synonym, wherever they stand in the text; stop words do not."""
    insert: _Alpha = 0.0
    """Share of the words whose synonym is put in, at any place."""
    swap: _Alpha = 0.0
    """Share of the words that change places with another."""
    delete: _Alpha = 0.0
    """Share of the words that are left out; the last one never is."""
    synonyms_from: str | None = None
    """A WordNet folder, or a file with lines ``word<TAB>synonym, synonym``; null: the WordNet that is installed."""

    @model_validator(mode="after")
    def _one_rule_at_least(self) -> Self:
        if not self._on:
            raise ValueError("no rule is switched on: give 'synonyms', 'insert', 'swap' or 'delete' a share above 0")
        if self.synonyms_from is not None and not self._reads:
            raise ValueError("'synonyms-from' is read for 'synonyms' and 'insert' alone, and both are 0")
        return self

    @property
    def fingerprint(self) -> str:
        """Names the settings and the content of the synonyms, wherever these lie.

        Raises:
            DataError: there are no synonyms, and a rule needs them.
        """
        settings = self.plain() | {"synonyms-from": self._source.fingerprint if self._reads else None}
        return digest([_VERSION, {key: value for key, value in settings.items() if key != "keep-labels"}])

    def write(self, texts: Sequence[str], ids: Tensor, views: Tensor) -> list[str]:
        """See `Writer.write`. Each text by itself: a pure function of (text, id, view)."""
        written = [texts[row] for row in ids.tolist()]
        drawn = chances(RULES, ids, views)
        known = self._source.known if self._reads else frozenset[str]()
        for place in self.chosen(ids, views):
            chance = drawn[place]
            rule, alpha = chance.pick(self._on)
            wording = Wording.of(written[place]).joined(known)
            if len(wording):
                count = max(1, int(alpha * len(wording)))
                written[place] = str(rule(wording, count, chance, self._others))
        return written

    @property
    def _on(self) -> list[tuple[_Rule, float]]:
        rules = ((_replace, self.synonyms), (_insert, self.insert), (_swap, self.swap), (_delete, self.delete))
        return [(rule, alpha) for rule, alpha in rules if alpha]

    @property
    def _reads(self) -> bool:
        return bool(self.synonyms or self.insert)

    @cached_property
    def _source(self) -> Synonyms:
        return synonyms(self.synonyms_from)

    def _others(self, word: str) -> tuple[str, ...]:
        return self._source.of(word) if replaceable(word) else ()


def _replace(wording: Wording, count: int, chance: Chance, others: _Others) -> Wording:
    """``count`` different words that have synonyms, each replaced by one wherever it stands."""
    known = {word: others(word) for word in dict.fromkeys(wording.words)}
    chosen = {word: chance.pick(known[word]) for word in chance.some([word for word in known if known[word]], count)}
    at = {place: chosen[word] for place, word in enumerate(wording.words) if word in chosen}
    return wording.replaced(at)


def _insert(wording: Wording, count: int, chance: Chance, others: _Others) -> Wording:
    """``count`` synonyms of words of the text, at any places."""
    found = [synonyms for word in dict.fromkeys(wording.words) if (synonyms := others(word))]
    for _ in range(count if found else 0):
        wording = wording.inserted(chance.pick(chance.pick(found)), chance.below(len(wording) + 1))
    return wording


def _swap(wording: Wording, count: int, chance: Chance, _: _Others) -> Wording:
    """``count`` times two words change places."""
    for _turn in range(count if len(wording) > 1 else 0):
        one, other = chance.some(range(len(wording)), 2)
        wording = wording.swapped(one, other)
    return wording


def _delete(wording: Wording, count: int, chance: Chance, _: _Others) -> Wording:
    """Without ``count`` words; one is left at least. (The authors' code tosses a coin for each word.)"""
    places = chance.some(range(len(wording)), min(count, len(wording) - 1))
    for place in sorted(places, reverse=True):
        wording = wording.without(place)
    return wording
