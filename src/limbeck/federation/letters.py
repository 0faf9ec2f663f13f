"""`Letter`: all that crosses between a client and the server. Weights or logits, and counts; anything else is refused."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from limbeck.errors import LimbeckError

Kind = Literal["weights", "logits", "nothing"]
SERVER: Final = 0
"""The sender's number of the server; clients begin at 1."""
LOGITS: Final = "logits"
_HEAD: Final = "letter"
_KEYS: Final = {"kind", "turn", "sender", "rows", "classes"}


@dataclass(frozen=True)
class Letter:
    """What one side tells the other in a round.

    ``kind``: what ``tensors`` are: a model's state by name; ``logits`` [P, C] about the public rows, in their order; or
    nothing yet. ``turn``: the round, from 1. ``sender``: a client, from 1, or `SERVER`. ``rows``: how many rows of its own it
    learnt from. ``classes``: how many of each class, where the recipe asks for that; else empty.
    """

    kind: Kind
    turn: int
    sender: int
    tensors: Mapping[str, Tensor]
    rows: int = 0
    classes: tuple[int, ...] = ()

    def encoded(self) -> bytes:
        """The bytes that cross: one safetensors file, which can hold tensors and a short head and no code."""
        head = {"kind": self.kind, "turn": self.turn, "sender": self.sender, "rows": self.rows}
        told = json.dumps({**head, "classes": list(self.classes)}, sort_keys=True)
        # copies: tied weights are one tensor under two names, which the format refuses
        named = {name: value.detach().cpu().clone().contiguous() for name, value in self.tensors.items()}
        content: bytes = safetensors.torch.save(named, {_HEAD: told})
        return content


def decoded(content: bytes, kind: Kind, turn: int, sender: int, like: Mapping[str, Tensor], classes: int = 0) -> Letter:
    """The letter in these bytes, if it is the one that was waited for and holds nothing else.

    Args:
        content: what arrived.
        kind: what it has to hold.
        turn: of which round.
        sender: from whom.
        like: tensors of the names, shapes and types that it has to have.
        classes: how many counts of classes come with it.

    Raises:
        LimbeckError: it is damaged, is another letter, has a tensor too many or too few or of another form, or one that is
            not finite.
    """
    who = "The server's letter" if sender == SERVER else f"The letter of client {sender}"
    try:
        tensors, head = safetensors.torch.load(content), _head(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LimbeckError(
            f"{who} in round {turn} cannot be read ({error}): it was damaged or is none of limbeck's, so nothing in it was used."
        ) from None
    found = (head["kind"], head["turn"], head["sender"], len(head["classes"]))
    if found != (kind, turn, sender, classes):
        raise LimbeckError(
            f"{who} in round {turn} should hold {kind} with the counts of {classes} classes, and what came says that it holds "
            f"{found[0]} of round {found[1]} from {found[2]} with {found[3]}: server and client must have the same recipe."
        )
    if more := sorted(tensors.keys() - like.keys()):
        raise LimbeckError(
            f"{who} in round {turn} holds {more[0]!r}, which is no part of the {kind} that were asked for: nothing but these may "
            "cross, so it was refused."
        )
    if fewer := sorted(like.keys() - tensors.keys()):
        raise LimbeckError(f"{who} in round {turn} lacks {fewer[0]!r}: server and client must have the same recipe.")
    for name, value in tensors.items():
        ours = like[name]
        if value.shape != ours.shape or value.dtype != ours.dtype:
            raise LimbeckError(
                f"{who} in round {turn} has {name!r} as {value.dtype} {list(value.shape)}, and {ours.dtype} {list(ours.shape)} "
                "is what the recipe asks for: server and client must have the same one."
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise LimbeckError(f"{who} in round {turn} has numbers in {name!r} that are not finite: it was refused.")
    return Letter(kind, turn, sender, tensors, head["rows"], tuple(head["classes"]))


def holds(content: bytes) -> Kind | None:
    """What a letter says that it holds; None if it cannot be read."""
    try:
        kind: Kind = _head(content)["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return kind


def _head(content: bytes) -> dict[str, Any]:
    """What stands at the head, if it is well formed.

    Raises:
        ValueError, KeyError, TypeError: it is not.
    """
    told = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    if set(told) != {_HEAD}:
        raise ValueError("another head")
    head: dict[str, Any] = json.loads(told[_HEAD])
    numbers = [head["turn"], head["sender"], head["rows"], *head["classes"]]
    whole = all(type(one) is int and 0 <= one < 2**53 for one in numbers)
    if set(head) != _KEYS or head["kind"] not in get_args(Kind) or not whole:
        raise ValueError("another head")
    return head


@dataclass(frozen=True)
class Turn:
    """What crossed in one round: who was asked, who answered in time, and bytes from the server and to it."""

    asked: int
    answered: int
    down: int
    up: int


def public_like(rows: int, answers: tuple[int, ...]) -> dict[str, Tensor]:
    """What a letter of logits about so many public rows looks like."""
    return {LOGITS: torch.zeros(rows, *answers)}
