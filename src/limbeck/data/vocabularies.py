"""Whether two tokenizers give the same ids: their names and sizes do not tell, so they are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from limbeck.data.sequences import end_of
from limbeck.data.tokenizers import quiet

PROBES: Final = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces,\ta tab,\n\nan empty line,\r\nand some at the end  ",
    "na\u00efve caf\u00e9, \u201cquotes\u201d \u2013 dashes \u2014 and \u2026",
    "e\u0301 is two letters, \u00e9 is one; \ufb01 is a ligature",
    "\u732b\u304c\u5ea7\u3063\u305f\u3002\u6c49\u5b57",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u0645\u0631\u062d\u0628\u0627, \u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f642 \U0001f469\u200d\U0001f52c \u2211\u2260\u221e",
    "3.14159 1,000,000 0x1F 2026-11-22",
    "def f(x):\n    return {'a': x ** 2}  # \u00b5",
    "don't can't it's I'LL",
    "antidisestablishmentarianism zzxqj",
)
"""Texts on which tokenizers differ if they do: white space, composed letters, other scripts, signs, numbers, code."""
_CHAT: Final = (
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "It is a probe."},
)


@dataclass(frozen=True)
class Likeness:
    """Two tokenizers beside each other, the student's first.

    ``sizes``: tokens. ``asked``: how many texts both were asked about. ``apart``: the first text that they read as other ids,
    with both; None: none. ``renamed``: ids that both have, for other pieces. ``ends``, ``begins``, ``pads``: special tokens, None
    where there is none. ``chats``: whether they write a chat alike; None: neither has a template. ``templates``: who has one.
    """

    sizes: tuple[int, int]
    asked: int
    apart: tuple[str, list[int], list[int]] | None
    renamed: int
    ends: tuple[int | None, int | None]
    begins: tuple[int | None, int | None]
    pads: tuple[int | None, int | None]
    chats: bool | None
    templates: tuple[bool, bool]

    @property
    def alike(self) -> bool:
        """Whether the same text is the same ids; one of the two may have further tokens, that none of the texts needs."""
        return self.apart is None


def compared(ours: Any, theirs: Any, texts: Sequence[str] = ()) -> Likeness:
    """Asks both about `PROBES`, their special tokens within a text, and ``texts``."""
    special = sorted({*ours.all_special_tokens, *theirs.all_special_tokens})
    probes = [*PROBES, *(f"a {token} b" for token in special), *texts]
    apart = None
    with quiet():
        for text in probes:
            both = [list(one(text, add_special_tokens=False)["input_ids"]) for one in (ours, theirs)]
            if both[0] != both[1]:
                apart = (text, both[0], both[1])
                break
        chats = [_chat(one) for one in (ours, theirs)]
    pieces = {number: piece for piece, number in theirs.get_vocab().items()}
    renamed = sum(pieces.get(number, piece) != piece for piece, number in ours.get_vocab().items())
    return Likeness(
        sizes=(len(ours), len(theirs)),
        asked=len(probes),
        apart=apart,
        renamed=renamed,
        ends=_pair(end_of(ours), end_of(theirs)),
        begins=(ours.bos_token_id, theirs.bos_token_id),
        pads=(ours.pad_token_id, theirs.pad_token_id),
        chats=None if chats == [None, None] else chats[0] == chats[1],
        templates=(chats[0] is not None, chats[1] is not None),
    )


def _pair(ours: list[int], theirs: list[int]) -> tuple[int | None, int | None]:
    return (ours or [None])[0], (theirs or [None])[0]  # type: ignore[list-item]


def _chat(tokenizer: Any) -> str | None:
    """What its template makes of a short chat; None: it has none."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    return str(tokenizer.apply_chat_template([dict(one) for one in _CHAT], tokenize=False))
