"""Texts translated into another language and back."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from limbeck.config import digest
from limbeck.data.draw import uniforms
from limbeck.data.tokenizers import quiet
from limbeck.data.writing.kept import kept
from limbeck.data.writing.models import Loaded, loaded, ready
from limbeck.data.writing.wording import Wording
from limbeck.data.writing.writer import BACK, THERE, Writing

_STEP: Final = 64  # between the salts of two steps of generation; more than there are salts
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE: Final = re.compile("[.!?:\u2026\u3002\uff01\uff1f]")
_VERSION: Final = 1  # of how a text is translated and checked
_Model = Literal["AutoModelForSeq2SeqLM"]
_SEQ2SEQ: Final[_Model] = "AutoModelForSeq2SeqLM"


class BackTranslation(Writing):
    """A text is sampled through one translation model and back through another (Sennrich et al. 2016; sampled as by Edunov et
    al. 2018).

    It stays as it is where the way back leads to the same words, where a translation has no end, or where a check says that
    something was lost.
    """

    name: Literal["back-translation"] = "back-translation"
    there: str
    """A model from the language of the texts: a folder, a name on the hub, or ``package:<name>/<folder>``."""
    back: str
    """A model from the other language back."""
    there_prefix: str = ""
    """What stands before each text, for models that are told what to do, as T5 is."""
    back_prefix: str = ""
    """What stands before each translation."""
    temperature: Annotated[float, Field(gt=0)] = 0.8
    """Of the sampling; low is faithful, high is varied."""
    max_length: Annotated[int, Field(ge=2)] = 128
    """Tokens of a text or translation; longer texts stay as they are."""
    check_names: bool = True
    """Whether the numbers and the capitalised words inside sentences must come back."""
    similarity: str | None = None
    """A sentence embedding model (mean over tokens) that must find both texts alike; null: none is asked."""
    at_least: Annotated[float, Field(ge=-1, le=1)] = 0.6
    """The cosine of their embeddings."""

    @property
    def fingerprint(self) -> str:
        """Names the settings and the models' weights, wherever these lie.

        Raises:
            DataError: a model is not there, or was not trained to translate.
        """
        return digest([self._maker, self.share])

    def write(self, texts: Sequence[str], ids: Tensor, views: Tensor) -> list[str]:
        """See `Writer.write`. What the models wrote is kept on disk.

        Raises:
            LimbeckError: a model cannot be loaded, or the disk is full.
        """
        written = [texts[row] for row in ids.tolist()]
        places = self.chosen(ids, views)
        index = torch.tensor(places, dtype=torch.int64)
        for place, text in zip(places, kept(self._maker, texts, ids[index], views[index], self._make), strict=True):
            written[place] = text
        return written

    @property
    def _maker(self) -> str:
        paths = {"name", "share", "keep-labels", "there", "back", "similarity"}
        settings = {key: value for key, value in self.plain().items() if key not in paths}
        models = [loaded(name, _SEQ2SEQ).fingerprint for name in (self.there, self.back)]
        judge = loaded(self.similarity, "AutoModel").fingerprint if self.similarity else None
        return digest(["back-translation", _VERSION, settings, models, judge])

    def _make(self, texts: Sequence[str], ids: Tensor, views: Tensor) -> list[str]:
        there, back = ready(loaded(self.there, _SEQ2SEQ)), ready(loaded(self.back, _SEQ2SEQ))
        foreign = self._translated(there, [self.there_prefix + text for text in texts], THERE, ids, views)
        again = self._translated(back, [self.back_prefix + (text or "") for text in foreign], BACK, ids, views)
        returned = [new if old else None for old, new in zip(foreign, again, strict=True)]
        alike = [True] * len(texts)
        if self.similarity:
            judge = ready(loaded(self.similarity, "AutoModel"))
            cosine = F.cosine_similarity(embedded(judge, texts), embedded(judge, [text or "" for text in returned]))
            alike = (cosine >= self.at_least).tolist()
        return [
            new if new and same and (not self.check_names or names_kept(text, new)) else text
            for text, new, same in zip(texts, returned, alike, strict=True)
        ]

    @torch.no_grad()
    def _translated(
        self, model: Loaded, texts: Sequence[str], salt: int, ids: Tensor, views: Tensor
    ) -> list[str | None]:
        """A sampled translation of each text; None where the text is too long or the translation has no end."""
        with quiet():
            whole = [len(row) for row in model.tokenizer(list(texts))["input_ids"]]
            tokens = model.tokenizer(
                list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
            given = {name: tokens[name].to(model.device) for name in ("input_ids", "attention_mask")}
            said = model.model.generate(
                **given,
                max_new_tokens=self.max_length,
                do_sample=False,
                num_beams=1,
                logits_processor=[_Sampled(self.temperature, salt, ids, views)],
            )
            results = model.tokenizer.batch_decode(said, skip_special_tokens=True)
        ends = torch.tensor(_ends(model), device=said.device)
        ended = torch.isin(said[:, 1:], ends).any(1).tolist()  # BART begins with the token that ends
        return [
            text.strip() if end and text.strip() and length <= self.max_length else None
            for text, end, length in zip(results, ended, whole, strict=True)
        ]


class _Sampled:
    """Makes greedy search sample: the highest of scores / T + Gumbel noise is a draw from softmax(scores / T).

    The noise of a row hangs on its (id, view) and the step alone, and no generator is moved.
    """

    def __init__(self, temperature: float, salt: int, ids: Tensor, views: Tensor) -> None:
        self._temperature, self._salt, self._ids, self._views = temperature, salt, ids, views

    def __call__(self, _tokens: Tensor, scores: Tensor) -> Tensor:
        self._salt += _STEP
        drawn = torch.from_numpy(uniforms(self._salt, self._ids, self._views, scores.shape[-1])).clamp_min(2.0**-54)
        return scores / self._temperature - (-drawn.log()).log().to(scores)


@torch.no_grad()
def embedded(loaded: Loaded, texts: Sequence[str]) -> Tensor:
    """The mean of the last hidden states over the tokens of each text, float32 [len(texts), width]."""
    with quiet():
        tokens = loaded.tokenizer(
            list(texts), padding=True, truncation=True, max_length=loaded.longest, return_tensors="pt"
        ).to(loaded.device)
        states = loaded.model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None].to(states.dtype)
    mean: Tensor = (states * mask).sum(1) / mask.sum(1).clamp_min(1)
    return mean.cpu()


def names_kept(text: str, new: str) -> bool:
    """Whether ``new`` has the numbers of ``text``, and every word that has a large letter inside a sentence there."""
    if Counter(_NUMBER.findall(text)) != Counter(_NUMBER.findall(new)):
        return False
    wording, there = Wording.of(text), {word.casefold() for word in Wording.of(new).words}
    names = {
        word.casefold()
        for word, gap in zip(wording.words[1:], wording.gaps[1:], strict=False)
        if word[0].isupper() and not _SENTENCE.search(gap)
    }
    return names <= there


def _ends(model: Loaded) -> list[int]:
    end: Any = model.model.generation_config.eos_token_id
    return list(end) if isinstance(end, list | tuple) else [-1 if end is None else int(end)]
