"""Log-probabilities of what a served model wrote, as chats and completions tell them, read strictly."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from limbeck.errors import SignalError
from limbeck.teachers.author import Name, Step
from limbeck.teachers.served.reading import NEVER, checked, demand_sum

_NUMBER: Final = "token_id:"  # what vLLM writes before a token's number, if it is told to write that
_NONE: Final = (
    "The served model's answer has no log-probabilities of what it wrote: its server gives none, or none for this model. Write "
    "'logprobs: none', and learn from its texts alone."
)


def read(choice: Mapping[str, Any], chat: bool, top: int) -> tuple[Step, ...]:
    """Of each token of a choice that one and the ``top`` likeliest; those that cannot be are left out.

    Raises:
        SignalError: there are none, or they are no log-probabilities.
    """
    given = choice.get("logprobs")
    if not isinstance(given, Mapping):
        raise SignalError(_NONE)
    try:
        entries = _of_a_chat(given) if chat else _of_a_completion(given)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SignalError(_NONE) from None
    return tuple(_step(place, *entry, top) for place, entry in enumerate(entries))


def packed(steps: Sequence[Step]) -> list[Any]:
    """As JSON."""
    return [
        [[name if isinstance(name, int) else name.decode("latin-1"), value] for name, value in step] for step in steps
    ]


def unpacked(content: Sequence[Any]) -> tuple[Step, ...]:
    """What `packed` made JSON of."""
    return tuple(
        tuple((name if isinstance(name, int) else name.encode("latin-1"), value) for name, value in step)
        for step in content
    )


def _of_a_chat(given: Mapping[str, Any]) -> list[tuple[tuple[Name, Any], list[tuple[Name, Any]]]]:
    return [(_entry(one), [_entry(other) for other in one["top_logprobs"] or ()]) for one in given["content"] or ()]


def _of_a_completion(given: Mapping[str, Any]) -> list[tuple[tuple[Name, Any], list[tuple[Name, Any]]]]:
    each = zip(given["tokens"], given["token_logprobs"], given["top_logprobs"], strict=True)
    return [
        ((_name(name), value), [(_name(one), other) for one, other in (likeliest or {}).items()])
        for name, value, likeliest in each
    ]


def _entry(given: Mapping[str, Any]) -> tuple[Name, Any]:
    content = given.get("bytes")
    return (_name(given["token"]) if content is None else bytes(content)), given["logprob"]


def _name(token: str) -> Name:
    number = token.removeprefix(_NUMBER)
    if number != token and number.isascii() and number.isdecimal() and len(number) < 12:
        return int(number)
    return token.encode(errors="replace")


def _step(place: int, own: tuple[Name, Any], likeliest: Sequence[tuple[Name, Any]], top: int) -> Step:
    where = f"the token {place + 1} of what it wrote"
    each = [(name, checked(value, f"{name!r} in the place of {where}")) for name, value in likeliest]
    if not each:
        raise SignalError(
            f"The served model's answer has no likeliest tokens beside {where}: its server tells how probable the written ones "
            "are, and no others. Write 'logprobs: none', and learn from its texts alone."
        )
    demand_sum([value for _, value in each], where)
    each = sorted((one for one in each if one[1] > NEVER), key=lambda one: -one[1])[:top]
    return ((own[0], checked(own[1], where)), *each)
