"""Texts as tokens: all of a table in one flat row, padded when a batch is read."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from limbeck.data import items
from limbeck.data.items import Item
from limbeck.data.packed import Packed
from limbeck.data.text_settings import TextSettings
from limbeck.data.tokenizers import loaded, quiet
from limbeck.errors import DataError

PAIR: Final = "pair_"  # before the names of columns of the second of two texts that are read each by itself
CHUNK: Final = 4096  # texts tokenised at once: bounds the memory that lists of Python numbers take


class Apart:
    """Two texts a row, each by itself; or one."""

    def __init__(self, texts: Sequence[Item], reader: TextSettings) -> None:
        self.reader = reader
        checked = [items.checked(text, row, "pairs") for row, text in enumerate(texts)]
        alone = sum(isinstance(text, str) for text in checked)
        if 0 < alone < len(checked):
            raise DataError(
                f"{alone} of {len(checked)} rows are single texts and the others are pairs: give all of one kind."
            )
        sides = {"": checked} if alone else {"": [one[0] for one in checked], PAIR: [one[1] for one in checked]}
        plain = reader.model_copy(update={"reads": "texts"})
        self._sides = {side: Tokens(own, plain) for side, own in sides.items()}

    @property
    def unknown(self) -> float:
        """The larger share of tokens that the tokenizer does not know."""
        return max(own.unknown for own in self._sides.values())

    @property
    def lengths(self) -> Tensor:
        """The tokens of each row's longer text, int64 [N]."""
        return torch.stack([own.lengths for own in self._sides.values()]).amax(0)

    @property
    def longest(self) -> int:
        """The length of the longest text, padded."""
        return max(own.longest for own in self._sides.values())

    @property
    def largest(self) -> int:
        """The largest token."""
        return max(own.largest for own in self._sides.values())

    def padded(self, rows: Tensor) -> dict[str, Tensor]:
        """The columns of both texts for ``rows``, int64 [B]; see `TextReader.encode`."""
        return {side + name: column for side, own in self._sides.items() for name, column in own.padded(rows).items()}


class Tokens:
    """The tokens of texts in one flat row, without padding."""

    def __init__(self, texts: Sequence[Item], reader: TextSettings) -> None:
        self.reader = reader
        self._known, self._longest = loaded(reader.tokenizer), reader.max_length
        tokenizer, reads = self._known.tokenizer, reader.reads
        own = tokenizer.num_special_tokens_to_add(pair=items.paired(texts, reads))
        if own >= reader.max_length:
            raise DataError(
                f"'max-length: {reader.max_length}' leaves no room for a text, as the tokenizer {reader.tokenizer!r} adds "
                f"{own} tokens of its own: raise it."
            )
        if reads != "texts" and not tokenizer.is_fast:
            raise DataError(
                f"The tokenizer {reader.tokenizer!r} does not tell where in a text its tokens stand, which labels of words "
                "and spans need: choose one of the tokenizers library."
            )
        ids, types, lengths = [torch.empty(0, dtype=torch.int32)], [torch.empty(0, dtype=torch.uint8)], list[int]()
        places = [torch.empty(0, 2, dtype=torch.int32)]
        for start in range(0, len(texts), CHUNK):
            chunk = [items.checked(text, row, reads) for row, text in enumerate(texts[start : start + CHUNK], start)]
            found = self._asked(chunk, start)
            for row, tokens in enumerate(found["input_ids"], start):
                if not tokens:  # a mask of zeros alone makes NaN of every mean and softmax over it
                    raise DataError(f"row {row} has no token in it: {texts[row]!r}. Drop empty texts.")
            lengths += [len(tokens) for tokens in found["input_ids"]]
            ids.append(torch.tensor([token for tokens in found["input_ids"] for token in tokens], dtype=torch.int32))
            if self._known.types:
                kinds = [kind for kinds in found["token_type_ids"] for kind in kinds]
                types.append(torch.tensor(kinds, dtype=torch.uint8))
            if reads != "texts":
                spots = [place for row in range(len(chunk)) for place in items.places(found, row, reads)]
                places.append(torch.tensor(spots, dtype=torch.int32))
        self._ids, self._types, self._places = torch.cat(ids), torch.cat(types), torch.cat(places)
        self._rows = Packed(lengths, self._longest)
        self.longest = self._rows.longest
        self.largest = int(self._ids.max()) if len(self._ids) else 0

    def _asked(self, chunk: Sequence[Item], first: int) -> Any:
        asked = items.arguments(chunk, self.reader.reads, first)
        try:
            with quiet():
                return self._known.tokenizer(
                    **asked, max_length=self._longest, padding=False, return_attention_mask=False, verbose=False
                )
        except Exception as error:  # a question without room for its text, or words that must be told apart otherwise
            if self.reader.reads == "texts":
                raise
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"The tokenizer {self.reader.tokenizer!r} cannot read the {self.reader.reads} of rows {first} to "
                f"{first + len(chunk) - 1}: {reason}. A question needs some room for its text within 'max-length: "
                f"{self._longest}'."
            ) from error

    @property
    def unknown(self) -> float:
        """The share of the tokens that the tokenizer does not know."""
        unknown = self._known.tokenizer.unk_token_id
        return float((self._ids == unknown).float().mean()) if unknown is not None and len(self._ids) else 0.0

    @property
    def lengths(self) -> Tensor:
        """The tokens of each row, int64 [N]."""
        return self._rows.lengths

    def padded(self, rows: Tensor) -> dict[str, Tensor]:
        """The columns for ``rows``, int64 [B]; see `TextReader.encode`."""
        ids, mask = self._rows.spread(self._ids, rows, self._known.pad)
        columns = {"input_ids": ids.long(), "attention_mask": mask.long()}
        if self._known.types:
            columns["token_type_ids"] = self._rows.spread(self._types, rows, self._known.pad_type)[0].long()
        return columns

    def places(self, rows: Tensor, length: int | None = None) -> Tensor:
        """See `TextReader.places`; at ``length`` tokens, by default as many as the longest of ``rows`` has."""
        if self.reader.reads == "texts":
            raise DataError("Where tokens stand is known of words and questions only.")
        return self._rows.spread(self._places, rows, -1, length)[0].long()
