"""The reader of texts, which a delivered student needs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.data.items import Item
from limbeck.data.text_settings import TextSettings
from limbeck.data.tokenised import tokenised
from limbeck.data.tokens import Tokens


class TextReader(TextSettings):
    """Texts to tokens, see `TextSettings`."""

    def encode(self, texts: Sequence[Item]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and, where the tokenizer knows them, ``token_type_ids``: int64
        [len(texts), length], padded on the right to the longest text, rounded up to a multiple of 8. The second of two texts
        that are read each by itself has columns of its own, ``pair_input_ids`` and so on.

        Raises:
            DataError: one is no text or has no token, or there is no such tokenizer.
        """
        return tokenised(texts, self).padded(torch.arange(len(texts)))

    def places(self, texts: Sequence[Item]) -> Tensor:
        """Where each token stands in its text, int64 [len(texts), length, 2], see `items.places`; (-1, -1) at padding.

        Raises:
            DataError: as `encode`; or ``reads`` is ``texts``, or the tokenizer does not tell.
        """
        return Tokens(texts, self).places(torch.arange(len(texts)))
