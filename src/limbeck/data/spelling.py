"""What the tokens of a vocabulary spell, in bytes: the one measure that all tokenizers share."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, Final, NamedTuple

from limbeck.errors import DataError


class Kind(IntEnum):
    """What a token is."""

    TEXT = 0
    INSIDE = 1  # of a word, where the vocabulary tells that: ``##ing``
    BYTE = 2  # a byte that stands in for a missing token: ``<0xE4>``
    SPECIAL = 3  # spells nothing
    MISSING = 4  # no token has this number


class Token(NamedTuple):
    """``content``: the bytes that it spells; of a special token, those of its name."""

    kind: Kind
    content: bytes

    @property
    def text(self) -> bytes:
        """What it adds to a text."""
        return self.content if self.kind < Kind.SPECIAL else b""


@dataclass(frozen=True)
class Spelling:
    """Tokens by their number; ``unknown`` stands for what the vocabulary cannot spell, ``end`` ends a sequence."""

    tokens: tuple[Token, ...]
    unknown: int | None = None
    end: int | None = None

    @cached_property
    def spaced(self) -> bool:
        """Whether tokens have white space in them; otherwise the tokenizer leaves out what is between words."""
        return any(token.kind == Kind.TEXT and b" " in token.content for token in self.tokens)


_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
# GPT-2's alphabet writes some bytes as they are, and the others as letters from number 256 on.
_PRINTED: Final = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS: Final = [byte for byte in range(256) if byte not in _PRINTED]
_ALPHABET: Final = {chr(byte): byte for byte in _PRINTED} | {chr(256 + at): byte for at, byte in enumerate(_OTHERS)}


def spelling(tokenizer: Any) -> Spelling:
    """What every token of a *fast* tokenizer of the transformers library spells. Make it once; tokens added later are not in it.

    Read from the tokenizer's own description: the byte alphabet of GPT-2 (Llama 3, Qwen), the space character and the byte
    tokens of SentencePiece, the ``##`` of WordPiece. `byte_ends` checks it against each text.

    Raises:
        DataError: it is not one of the tokenizers library.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"{type(tokenizer).__name__} does not say how its tokens are spelled, which aligning two tokenizers needs: choose "
            "a tokenizer of the tokenizers library (a folder with a tokenizer.json)."
        )
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["id"]: token for token in told["added_tokens"]}
    special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token["special"])}
    rule = _Rule.of(told)
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    tokens = [Token(Kind.MISSING, b"")] * (max(names, default=-1) + 1)
    for number, name in names.items():
        if number in special:
            tokens[number] = Token(Kind.SPECIAL, name.encode())
        else:  # added tokens are found in the text as it is, before any alphabet
            tokens[number] = Token(Kind.TEXT, name.encode()) if number in added else rule.read(name)
    unknown = None if rule.complete else _unknown(told["model"], tokenizer)
    return Spelling(tuple(tokens), unknown, tokenizer.eos_token_id)


@dataclass(frozen=True)
class _Rule:
    """How a vocabulary writes bytes."""

    alphabet: bool  # GPT-2's
    fallback: bool  # has byte tokens
    spaces: tuple[str, ...]  # what it writes for a space
    before: str  # a token that goes on with a word
    after: str  # a token that ends a word

    @classmethod
    def of(cls, told: dict[str, Any]) -> "_Rule":
        model, parts = told["model"], list(_parts(told))
        replaced = [
            part["pattern"].get("String", "") for part in parts if part.get("content") == " " and "pattern" in part
        ]
        return cls(
            alphabet=any(part["type"] == "ByteLevel" for part in parts),
            fallback=bool(model.get("byte_fallback")),
            spaces=(*(part["replacement"] for part in parts if part["type"] == "Metaspace"), *filter(None, replaced)),
            before=model.get("continuing_subword_prefix") or "",
            after=model.get("end_of_word_suffix") or "",
        )

    @property
    def complete(self) -> bool:
        """Whether any text can be spelled."""
        return self.alphabet or self.fallback

    def read(self, name: str) -> Token:
        if self.fallback and (byte := _BYTE.fullmatch(name)):
            return Token(Kind.BYTE, bytes.fromhex(byte[1]))
        inside = (bool(self.before) and name.startswith(self.before)) or (
            bool(self.after) and not name.endswith(self.after)
        )
        name = name.removeprefix(self.before).removesuffix(self.after)
        kind = Kind.INSIDE if inside else Kind.TEXT
        if self.alphabet and all(letter in _ALPHABET for letter in name):
            return Token(kind, bytes(_ALPHABET[letter] for letter in name))
        for space in self.spaces:
            name = name.replace(space, " ")
        return Token(kind, name.encode())


def _parts(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The normaliser's, pre-tokenizer's and decoder's parts; a replacement counts in the decoder, which writes spaces back."""
    waiting = [told[name] for name in ("normalizer", "pre_tokenizer", "decoder") if told.get(name)]
    while waiting:
        part = waiting.pop()
        yield part
        for name in ("normalizers", "pretokenizers", "decoders"):
            waiting += part.get(name) or []


def _unknown(model: dict[str, Any], tokenizer: Any) -> int | None:
    number = model.get("unk_id")
    if number is None and model.get("unk_token"):
        number = tokenizer.convert_tokens_to_ids(model["unk_token"])
    return number
