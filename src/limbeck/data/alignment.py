"""Two tokenisations of one text, side by side: where tokens end in its bytes, and which tokens of both cover the same bytes."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.data.spelling import Kind, Spelling
from limbeck.errors import DataError

_SHOWN: Final = 24  # bytes of a text in a message
_CHANGES: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (
    *(
        (f"puts texts into the form {form}", partial(unicodedata.normalize, form))
        for form in ("NFC", "NFD", "NFKC", "NFKD")
    ),
    ("puts texts into small letters", str.lower),
)


def byte_ends(spelling: Spelling, texts: Sequence[str], ids: Tensor, counts: Tensor | None = None) -> Tensor:
    """Where each token ends in the UTF-8 bytes of its text: int64 [B, T], -1 for a token without bytes.

    ``texts``: what the counted tokens of each row spell. Tokens may stop before the text does (truncation). ``ids``: int64
    [B, T]. ``counts``: bool [B, T], the tokens that count; prompts, templates and padding do not. Special tokens have no
    bytes, nor has a space that the tokenizer puts before the text. White space that a tokenizer leaves out between words goes
    with the token after it, at the end of the text with the last one.

    Raises:
        DataError: the tokens of a row do not spell its text: the tokenizer changes texts, or does not know a part of it.
    """
    if len(texts) != len(ids):
        raise ValueError(f"{len(texts)} texts and {len(ids)} rows of tokens")
    rows, counted = ids.tolist(), (torch.ones_like(ids, dtype=torch.bool) if counts is None else counts).tolist()
    ends = [
        _ends(spelling, text, [token if count else None for token, count in zip(*pair, strict=True)], row)
        for row, (text, pair) in enumerate(zip(texts, zip(rows, counted, strict=True), strict=True))
    ]
    return torch.tensor(ends, dtype=torch.int64).reshape(ids.shape)


def chunks(student_ends: Tensor, teacher_ends: Tensor) -> tuple[Tensor, Tensor]:
    """The chunk of every token: int64 [B, T_s] and [B, T_t], counted from 0 in each row; -1 = in no chunk.

    A chunk closes where tokens of both sides end at the same byte, so it covers the same bytes on both and cannot be split
    further. Tokens after the last such byte are in no chunk, as are tokens without bytes. ``ends``: of `byte_ends`, of the same
    texts.

    Raises:
        ValueError: the ends of a row do not rise.
    """
    return _numbered(student_ends, teacher_ends), _numbered(teacher_ends, student_ends)


def shared_tokens(student: Spelling, teacher: Spelling, width: int | None = None) -> Tensor:
    """The teacher's token that spells the same bytes, for every token of the student: int64 [V_s], -1 = there is none.

    No teacher's token is given twice. Where tokens of one vocabulary spell the same, the first goes with the first, tokens of
    text before byte tokens. Special tokens go by their names, and the two ends of sequence always with each other. ``width``:
    how many logits the student has, if they are more than its tokens.

    Raises:
        DataError: only one of the two has white space in its tokens: the same letters then mean different things.
    """
    if student.spaced != teacher.spaced:
        without = "teacher" if student.spaced else "student"
        raise DataError(
            f"The {without}'s tokenizer leaves out the white space between words and the other one has it in its tokens, so "
            "tokens with the same letters do not stand for the same text: compare chunks of text instead (alm)."
        )
    if width is not None and width < len(student.tokens):
        raise ValueError(f"width is {width}, and the student has {len(student.tokens)} tokens")
    ended = student.end is not None and teacher.end is not None
    theirs = _by_content(teacher, ended)
    shared = torch.full((width or len(student.tokens),), -1, dtype=torch.int64)
    for key, own in _by_content(student, ended).items():
        for ours, their in zip(own, theirs.get(key, ()), strict=False):
            shared[ours] = their
    return shared


def _by_content(spelling: Spelling, ended: bool) -> dict[tuple[Kind | str, bytes], list[int]]:
    """Tokens by what makes them the same in both vocabularies; ``ended``: both have an end of sequence."""
    found: dict[tuple[Kind | str, bytes], list[int]] = defaultdict(list)
    for number, token in sorted(enumerate(spelling.tokens), key=lambda numbered: numbered[1].kind):
        if ended and number == spelling.end:
            found["end", b""].append(number)
        elif token.kind != Kind.MISSING:
            found[Kind.TEXT if token.kind == Kind.BYTE else token.kind, token.content].append(number)
    return found


def _ends(spelling: Spelling, text: str, tokens: Sequence[int | None], row: int) -> list[int]:
    """The byte ends of one row; None for a token that does not count."""
    written, places = _written(text, spelling.spaced, row)
    pieces = [_piece(spelling, token, text, row) for token in tokens]
    spelled = b"".join(pieces)
    added = 0 if written.startswith(spelled) else 1
    if added and not (b" " + written).startswith(spelled):
        raise DataError(_unlike(spelling, text, spelled, row))
    ends, at = [], -added
    for piece in pieces:
        at += len(piece)
        ends.append(places[at] if piece and at > 0 else -1)
    return ends


def _piece(spelling: Spelling, token: int | None, text: str, row: int) -> bytes:
    if token is None:
        return b""
    if token == spelling.unknown:
        raise DataError(
            f"row {row}: the tokenizer has no token for a part of {_excerpt(text.encode())}, so its tokens do not spell the "
            "text. Leave such texts out, or take a tokenizer that spells every text."
        )
    if not 0 <= token < len(spelling.tokens):
        raise DataError(f"row {row}: there is no token {token} in a vocabulary of {len(spelling.tokens)}.")
    return spelling.tokens[token].text


def _written(text: str, spaced: bool, row: int) -> tuple[bytes, Sequence[int]]:
    """The bytes that tokens spell of a text, and where in the text each number of them ends."""
    try:
        whole = text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"row {row}: half of a surrogate pair at character {error.start} is no text.") from error
    if spaced:
        return whole, range(len(whole) + 1)
    places, at = [0], 0
    for letter in text:
        size = len(letter.encode())
        at += size
        if not letter.isspace():
            places += range(at - size + 1, at + 1)
    places[-1] = at  # what follows the last word goes with it
    return "".join(text.split()).encode(), places


def _unlike(spelling: Spelling, text: str, spelled: bytes, row: int) -> str:
    """That tokens do not spell their text, where, and why if that can be told."""

    def begins(changed: str) -> bool:
        written, _ = _written(changed, spelling.spaced, row)
        return written.startswith(spelled) or (b" " + written).startswith(spelled)

    written, _ = _written(text, spelling.spaced, row)
    plain = spelled if written[:1] == spelled[:1] else spelled.removeprefix(b" ")
    at = next((at for at, (one, other) in enumerate(zip(written, plain, strict=False)) if one != other), len(written))
    why = next((f"its tokenizer {done}" for done, change in _CHANGES if begins(change(text))), "")
    return (
        f"row {row}: the tokens do not spell the text: after {at} bytes they go on with {_excerpt(plain[at:])} and the text with "
        f"{_excerpt(written[at:])}. "
        + (f"The reason: {why}. Do that to the texts before both sides read them, " if why else "")
        + ("or" if why else "Leave such texts out, or")
        + " take a tokenizer that keeps texts as they are."
    )


def _excerpt(written: bytes) -> str:
    return repr(written[:_SHOWN].decode(errors="backslashreplace")) if written else "nothing"


def _numbered(ends: Tensor, other: Tensor) -> Tensor:
    """The chunks of the tokens that end at ``ends``."""
    others, has_bytes = _rising(other), ends >= 0
    closes = has_bytes & (others.gather(1, torch.searchsorted(others, ends.contiguous())) == ends)
    number = closes.cumsum(1) - closes.long()
    return torch.where(has_bytes & (number < closes.sum(1, keepdim=True)), number, -1)


def _rising(ends: Tensor) -> Tensor:
    """Ends without gaps, and a last one that is beyond all."""
    filled = F.pad(ends, (1, 0), value=-1).cummax(1).values
    if bool(((ends >= 0) & (ends <= filled[:, :-1])).any()):
        raise ValueError("the byte ends of a row do not rise from token to token")
    return F.pad(filled, (0, 1), value=torch.iinfo(torch.int32).max)
