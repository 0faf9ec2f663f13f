"""Words replaced by what a masked language model expects in their place, as TinyBERT augments its data."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from limbeck.config import digest
from limbeck.data.tokenizers import quiet
from limbeck.data.writing.kept import kept
from limbeck.data.writing.models import Loaded, loaded, ready
from limbeck.data.writing.synonyms import replaceable
from limbeck.data.writing.wording import Wording
from limbeck.data.writing.writer import MASKED, Writing, chances
from limbeck.errors import DataError

_TOGETHER: Final = 64  # masked copies of a text in one forward
_MARKS: Final = ("\u0120", "\u2581")  # before the pieces that begin a word, in vocabularies that say so
_VERSION: Final = 1  # of how candidates are found and put in


class MaskedWords(Writing):
    """Each word may give way to one that a masked language model expects there (TinyBERT; Jiao et al. 2020, arXiv
    1909.10351).

    The model reads the text with the word masked, and the text as it is as second segment. Words of several pieces take their
    nearest neighbours in the model's own input embeddings (the paper: in GloVe). Stop words and what has digits are left alone,
    and so are words beyond the longest text that the model takes.
    """

    name: Literal["masked-words"] = "masked-words"
    model: str
    """A folder, a name on the hub, or ``package:<name>/<folder>``: a model with a head for masked words."""
    probability: Annotated[float, Field(gt=0, le=1)] = 0.4
    """With which each of these words is replaced."""
    candidates: Annotated[int, Field(ge=1)] = 15
    """How many words it may be replaced by, the likeliest ones; the word itself is none of them."""

    @property
    def fingerprint(self) -> str:
        """Names the settings and the model's weights, wherever these lie.

        Raises:
            DataError: there is no such model, or it was not trained for masked words.
        """
        return digest([self._maker, self.share, self.probability])

    def write(self, texts: Sequence[str], ids: Tensor, views: Tensor) -> list[str]:
        """See `Writer.write`. What the model expects is kept on disk; a view only chooses from it.

        Raises:
            LimbeckError: the model cannot be loaded, or the disk is full.
        """
        written = [texts[row] for row in ids.tolist()]
        drawn = chances(MASKED, ids, views)
        places = self.chosen(ids, views)
        rows = ids[torch.tensor(places, dtype=torch.int64)]
        for place, found in zip(
            places, kept(self._maker, texts, rows, torch.zeros_like(rows), self._make), strict=True
        ):
            chance, new = drawn[place], {}
            for word, others in enumerate(found):
                replace, which = chance.number() < self.probability, chance.number()
                if replace and others:
                    new[word] = others[int(which * len(others))]
            written[place] = str(Wording.of(written[place]).replaced(new))
        return written

    @property
    def _maker(self) -> str:
        return digest(
            ["masked-words", _VERSION, self.candidates, loaded(self.model, "AutoModelForMaskedLM").fingerprint]
        )

    def _make(self, texts: Sequence[str], _ids: Tensor, _views: Tensor) -> list[Any]:
        model = ready(loaded(self.model, "AutoModelForMaskedLM"))
        return [expected(model, text, self.candidates) for text in texts]


@torch.no_grad()
def expected(loaded: Loaded, text: str, most: int) -> list[list[str]]:
    """For each word of ``text`` the words that may stand there, likeliest first, at most ``most``; none for those left alone."""
    wording = Wording.of(text)
    spans = [
        span if replaceable(word) and not any(map(str.isdigit, word)) else None
        for word, span in zip(wording.words, wording.spans, strict=True)
    ]
    with quiet():
        tokens = loaded.tokenizer(
            text, text, truncation=True, max_length=loaded.longest, return_offsets_mapping=True, return_tensors="pt"
        )
    offsets, sides = tokens.pop("offset_mapping")[0].tolist(), tokens.sequence_ids(0)
    first = [(place, *offset) for place, (offset, side) in enumerate(zip(offsets, sides, strict=True)) if side == 0]
    pieces = [[place for place, start, end in first if span and start < span[1] and end > span[0]] for span in spans]
    vocabulary = _vocabulary(loaded)
    single = {places[0] for places in pieces if len(places) == 1}
    scores = _masked(loaded, tokens, sorted(single), vocabulary.ids)
    found: list[list[str]] = []
    for word, places in zip(wording.words, pieces, strict=True):
        if not places:
            found.append([])
            continue
        near = scores[places[0]] if len(places) == 1 else vocabulary.near(tokens["input_ids"][0, places])
        best = near.topk(min(most + 1, len(near))).indices.tolist()
        others = [vocabulary.words[place] for place in best]
        found.append([other for other in others if other.lower() != word.lower()][:most])
    return found


def _masked(loaded: Loaded, tokens: Any, places: list[int], ids: Tensor) -> dict[int, Tensor]:
    """The logits of ``ids`` at each of ``places``, where it alone is masked."""
    found: dict[int, Tensor] = {}
    for start in range(0, len(places), _TOGETHER):
        some = torch.tensor(places[start : start + _TOGETHER])
        inputs = {name: column.expand(len(some), -1).clone() for name, column in tokens.items()}
        inputs["input_ids"][torch.arange(len(some)), some] = loaded.tokenizer.mask_token_id
        logits = loaded.model(**{name: column.to(loaded.device) for name, column in inputs.items()}).logits
        at = logits[torch.arange(len(some)), some].cpu()[:, ids]
        found.update(zip(some.tolist(), at, strict=True))
    return found


class _Vocabulary:
    """The tokens that are whole words. ``ids``: int64 [n]; ``words``: their letters."""

    def __init__(self, loaded: Loaded) -> None:
        tokenizer = loaded.tokenizer
        if not getattr(tokenizer, "is_fast", False) or tokenizer.mask_token_id is None:
            raise DataError(
                f"The tokenizer of {loaded.name!r} knows no mask, or not where its tokens stand: name a BERT."
            )
        self._vectors = loaded.model.get_input_embeddings().weight.detach().cpu()
        size = min(len(tokenizer), len(self._vectors), loaded.model.get_output_embeddings().weight.shape[0])
        special = set(tokenizer.all_special_ids)
        tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
        marked = any(token[:1] in _MARKS for token in tokens)
        found: dict[int, str] = {}
        for place, token in enumerate(tokens):
            if place not in special and (token[:1] in _MARKS) == marked:
                word = tokenizer.convert_tokens_to_string([token]).strip()
                if Wording.of(word).words == (word,) and word[0].isalpha() and not any(map(str.isdigit, word)):
                    found[place] = word
        if not found:
            raise DataError(f"The vocabulary of {loaded.name!r} has no whole word in it: name another model.")
        self.ids, self.words = torch.tensor(list(found)), list(found.values())
        self._directions = F.normalize(self._vectors[self.ids], dim=-1)

    def near(self, pieces: Tensor) -> Tensor:
        """How near each of ``words`` is to a word of several pieces (int64 [p]), whose vector is their mean; [n]."""
        return self._directions @ F.normalize(self._vectors[pieces].mean(0), dim=-1)


@lru_cache(maxsize=2)
def _vocabulary(loaded: Loaded) -> _Vocabulary:
    return _Vocabulary(loaded)
