"""Texts for language models: their tokens, and which token follows each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.data import items
from limbeck.data.batch import NO_LABEL
from limbeck.data.items import Item
from limbeck.data.packed import Packed
from limbeck.data.text_settings import TextSettings
from limbeck.data.tokenizers import loaded, quiet
from limbeck.errors import DataError


class Sequences:
    """Texts, or prompts with their continuations, each closed by the tokenizer's end-of-text token.

    Of a text every token but the first is to be foreseen, of a prompt and its continuation those of the continuation. With a
    tokenizer that has a chat template, a prompt and its continuation are a question and an answer of a chat, up to the token that
    ends a text.

    Raises:
        DataError: a row is of another kind, or has nothing to be foreseen within the reader's length.
    """

    def __init__(self, texts: Sequence[Item], reader: TextSettings) -> None:
        self.reader, self._known = reader, loaded(reader.tokenizer)
        tokenizer = self._known.tokenizer
        ids: list[int] = []
        counts, ends, sizes, prompts = [], [], [], []
        with quiet():
            for row, text in enumerate(texts):
                item = items.checked(text, row, "sequences")
                known, every = _read(tokenizer, item, row)
                own, begin = every[: reader.max_length], max(1, known)
                if len(own) <= begin:
                    raise DataError(_nothing(row, text, known, reader.max_length))
                ids += own
                counts.append(len(own))
                ends.append(begin)
                prompts.append(known)
                if len(own) < len(every):
                    sizes.append(bytes_of(tokenizer, own[begin:]))
                elif known:
                    sizes.append(len(item[1].encode()))
                else:  # the first token is not foreseen, so its letters do not count
                    sizes.append(len(str(item).encode()) - bytes_of(tokenizer, own[:1]))
        self._ids, self._rows = torch.tensor(ids, dtype=torch.int32), Packed(counts, reader.max_length)
        self._begins, self._sizes = torch.tensor(ends), torch.tensor(sizes)
        self._prompts = prompts
        self.longest = self._rows.longest
        self.largest = int(self._ids.max()) if len(self._ids) else 0

    @property
    def unknown(self) -> float:
        """The share of the tokens that the tokenizer does not know."""
        unknown = self._known.tokenizer.unk_token_id
        ends = self._known.tokenizer.eos_token_id  # GPT-2 has one token for both
        if unknown is None or unknown == ends or not len(self._ids):
            return 0.0
        return float((self._ids == unknown).float().mean())

    @property
    def lengths(self) -> Tensor:
        """The tokens of each row, int64 [N]."""
        return self._rows.lengths

    def padded(self, rows: Tensor) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 [B, L], for ``rows``, int64 [B], padded on the right."""
        ids, there = self._rows.spread(self._ids, rows, self._known.pad)
        return {"input_ids": ids.long(), "attention_mask": there.long()}

    def following(self, rows: Tensor, length: int | None = None) -> Tensor:
        """Of each token of ``rows`` the next one and the bytes that it stands for, int32 [B, L, 2].

        ``NO_LABEL`` where none follows that is to be foreseen. The bytes of all of a row's tokens stand at the first one.
        """
        ids, there = self._rows.spread(self._ids, rows, NO_LABEL, length)
        place = torch.arange(ids.shape[1])
        after = torch.cat([ids[:, 1:], ids[:, :1]], 1)
        counts = torch.cat([there[:, 1:], there.new_zeros(len(rows), 1)], 1)
        counts &= place + 1 >= self._begins[rows, None]
        sizes = self._sizes[rows, None] * (place + 1 == self._begins[rows, None])
        return torch.stack([after.where(counts, NO_LABEL), sizes], 2).int()

    def row(self, row: int) -> tuple[Tensor, int]:
        """The tokens of a row, int64 [T], and how many of them are a prompt's."""
        return self._ids[self._rows.row(row)].long(), self._prompts[row]

    def spread(self, flat: Tensor, rows: Tensor, fill: int) -> Tensor:
        """Of values that stand at the tokens of all rows, one after another, those of ``rows``, [B, L], ``fill`` at padding."""
        return self._rows.spread(flat, rows, fill)[0]


def prompted(tokenizer: Any, prompt: str) -> list[int]:
    """The tokens of a prompt that is to be gone on with, as `Sequences` reads it before its continuation."""
    if tokenizer.chat_template is not None:
        return _chat(tokenizer, [{"role": "user", "content": prompt}], True)
    found = list(tokenizer(prompt)["input_ids"])
    return found[:-1] if found[-1:] == end_of(tokenizer) else found


def end_of(tokenizer: Any) -> list[int]:
    """The token that ends a text, if there is one."""
    known = (tokenizer.eos_token_id, tokenizer.sep_token_id)  # BERT's kind has the second alone
    return [token for token in known if token is not None][:1]


def _read(tokenizer: Any, item: Item, row: int) -> tuple[int, list[int]]:
    """The tokens of an item, and how many of them are known beforehand."""
    end = end_of(tokenizer)
    if isinstance(item, str):
        found = list(tokenizer(item)["input_ids"])
        return 0, found if found[-1:] == end else found + end
    prompt, continuation = item
    if tokenizer.chat_template is None:
        first = prompted(tokenizer, prompt)
        return len(first), first + list(tokenizer(continuation, add_special_tokens=False)["input_ids"]) + end
    question = [{"role": "user", "content": prompt}]
    whole = [*question, {"role": "assistant", "content": continuation}]
    first = prompted(tokenizer, prompt)
    found = _chat(tokenizer, whole, False)
    if found[: len(first)] != first:
        raise DataError(
            f"row {row}: the chat template of the tokenizer {tokenizer.name_or_path!r} writes a question otherwise when an "
            "answer follows, so where the answer begins is not known. Give the whole as one text."
        )
    return len(first), _to_end(found, len(first), end)


def _to_end(tokens: list[int], begin: int, end: list[int]) -> list[int]:
    """Without what a template writes after the end of an answer that begins at ``begin``: no model gets to write it."""
    ends = [place for place in range(begin, len(tokens)) if tokens[place] in end]
    return tokens[: ends[-1] + 1] if ends else tokens


def bytes_of(tokenizer: Any, ids: list[int]) -> int:
    """What tokens are written as; nothing for those that are no part of a text."""
    return len(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).encode())


def _chat(tokenizer: Any, messages: list[dict[str, str]], ask: bool) -> list[int]:
    try:
        told = tokenizer.apply_chat_template(messages, add_generation_prompt=ask, tokenize=False)
    except Exception as error:  # a template is a program of its own
        raise DataError(
            f"The chat template of the tokenizer {tokenizer.name_or_path!r} refuses a question and an answer: {error}. Mend the "
            "template, or leave it out of the tokenizer's folder: then an answer follows its question as it stands."
        ) from error
    return list(tokenizer(told, add_special_tokens=False)["input_ids"])


def _nothing(row: int, text: Item, known: int, most: int) -> str:
    shown = text if isinstance(text, str) else text[-1]
    if known >= most:
        return f"row {row}: its prompt alone has {known} tokens and 'max-length' is {most}: raise it, or leave the row out."
    return f"row {row} has no token to be foreseen: {shown[:60]!r}. Drop empty texts."
