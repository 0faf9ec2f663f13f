"""Texts that are to be turned into others: an encoder reads the one, a decoder tells the other token by token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.data.batch import DECODED, NO_LABEL
from limbeck.data.packed import Packed
from limbeck.data.sequences import bytes_of, end_of
from limbeck.data.text_settings import TextSettings
from limbeck.data.tokenizers import begins_with, loaded, quiet
from limbeck.data.tokens import Tokens
from limbeck.errors import DataError


class Turned:
    """Sources, and their targets, each closed by the tokenizer's end-of-text token.

    A decoder reads its first token and then the target without its end, and is to tell the target, so what it reads stands one
    place to the right of what it is to tell (teacher forcing). A decoder looks back only, so padding on the right changes
    nothing and needs no mask.

    Raises:
        DataError: a target is empty.
    """

    def __init__(self, sources: Tokens, targets: Sequence[str], reader: TextSettings) -> None:
        self.reader, self.sources = reader, sources
        self._known, self._begin = loaded(reader.tokenizer), begins_with(reader.tokenizer)
        ids: list[int] = []
        counts, sizes = [], []
        with quiet():
            for row, target in enumerate(targets):
                every = self._read(target, row)
                own = every[: reader.max_length]
                ids += own
                counts.append(len(own))
                sizes.append(len(target.encode()) if len(own) == len(every) else bytes_of(self._known.tokenizer, own))
        self._ids, self._sizes = torch.tensor(ids), torch.tensor(sizes)
        self._rows = Packed(counts, reader.max_length)
        self.longest = max(sources.longest, self._rows.longest)
        self.largest = max(sources.largest, self._begin, *ids)

    def _read(self, target: str, row: int) -> list[int]:
        """A target's tokens with its end, without what the decoder begins with."""
        tokenizer = self._known.tokenizer
        found, end = list(tokenizer(text_target=target)["input_ids"]), end_of(tokenizer)
        found = found[1:] if found[:1] == [self._begin] else found
        found = found if found[-1:] == end else found + end
        if found in ([], end):
            raise DataError(f"row {row} has no token to be told: {target[:60]!r}. Drop empty texts.")
        return found

    @property
    def unknown(self) -> float:
        """The share of the tokens to be told that the tokenizer does not know."""
        unknown = self._known.tokenizer.unk_token_id
        return float((self._ids == unknown).float().mean()) if unknown is not None and len(self._ids) else 0.0

    @property
    def lengths(self) -> Tensor:
        """The tokens of each row's longer text, int64 [N]."""
        return torch.maximum(self.sources.lengths, self._rows.lengths)

    def padded(self, rows: Tensor) -> dict[str, Tensor]:
        """The columns of the sources for ``rows``, int64 [B], and ``decoder_input_ids``, int64 [B, L], padded on the right."""
        ids, there = self._rows.spread(self._ids, rows, self._known.pad)
        told = torch.cat([torch.full_like(ids[:, :1], self._begin), ids[:, :-1]], 1)
        return {**self.sources.padded(rows), DECODED: told.where(there, self._known.pad)}

    def following(self, rows: Tensor, length: int | None = None) -> Tensor:
        """At each place of a decoder the token to be told and the bytes that it stands for, int32 [B, L, 2].

        ``NO_LABEL`` where the target is over. The bytes of all of a row's tokens stand at the first one.
        """
        ids, _ = self._rows.spread(self._ids, rows, NO_LABEL, length)
        sizes = self._sizes[rows, None] * (torch.arange(ids.shape[1]) == 0)
        return torch.stack([ids, sizes], 2).int()
