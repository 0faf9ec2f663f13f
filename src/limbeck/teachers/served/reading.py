"""Prompt log-probabilities as vLLM writes them, read strictly: what is not sound is refused, and nothing is guessed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from limbeck.errors import SignalError
from limbeck.teachers.likeliest import Row
from limbeck.teachers.served.client import Unanswered

PADDING: Final = -2
"""What stands for a token that pads a vocabulary, as no text has it: its probability belongs to the rest."""
_PADDED: Final = 1024  # tokens beyond its next multiple are no padding
NEVER: Final = -9999.0
"""How vLLM writes minus infinity, which JSON lacks."""
_RAW: Final = "Is the server started with --logprobs-mode for logits? Leave that out."
_SLACK: Final = 1e-2  # a sum above 1 that rounding in half precision may explain


def read(answer: Mapping[str, Any], prompt: Sequence[int], top: int, classes: int) -> Row:
    """The row of an answer to ``prompt_logprobs: top`` for the tokens ``prompt``, of a model with ``classes`` tokens.

    Raises:
        Unanswered: the answer has no choice in it.
        SignalError: it is about other tokens, or its numbers are no log-probabilities.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise Unanswered("an answer without choices")
    choice = choices[0]
    given = choice.get("prompt_logprobs", answer.get("prompt_logprobs"))
    if not isinstance(given, list):
        raise SignalError(
            "The served model's answer has no prompt log-probabilities, so it cannot teach by logits: serve it with vLLM, "
            "which gives them, or write 'logprobs: none' and learn from what it writes ('regime: sequence-level')."
        )
    echoed = choice.get("prompt_token_ids")
    if (echoed is not None and echoed != list(prompt)) or len(given) != len(prompt):
        length = len(echoed) if isinstance(echoed, list) else len(given)
        raise SignalError(
            f"The served model read {length} other tokens than the {len(prompt)} that it was sent: it must take token ids as "
            "they are, without adding any, and have the tokenizer that the texts were read by."
        )
    row = Row.empty(len(prompt), top)
    for place in range(1, len(prompt)):
        entries = _entries(given[place], place, classes)
        if prompt[place] not in entries and echoed is None:
            raise SignalError(
                f"The served model's answer for position {place} does not have the token that was sent ({prompt[place]}): it "
                "reads other tokens, or leaves out those beside the likeliest, and then nothing shows what it read."
            )
        ids, logs = _likeliest(entries, top)
        mass = sum(map(math.exp, logs))
        # so many of the likeliest tokens have their share of all at least; half of it, as some may be padding
        if mass < 0.5 * len(ids) / classes:
            raise SignalError(
                f"The served model's {len(ids)} largest numbers at position {place} are too small for the likeliest tokens of "
                f"{classes}: these are no log-probabilities. {_RAW}"
            )
        _with_own(ids, logs, entries, top, prompt[place])
        demand_sum(logs, f"position {place}")
        row.ids[place - 1, : len(ids)] = [one if one < classes else PADDING for one in ids]
        row.logs[place - 1, : len(ids)] = np.minimum(logs, 0)
    return row


def _entries(given: Any, place: int, classes: int) -> dict[int, tuple[float, int]]:
    """Log-probability and rank (0: unknown) of each token at ``place``."""
    if not isinstance(given, Mapping) or not given:
        raise SignalError(
            f"The served model's answer has nothing at position {place}, where only the first has nothing before it. "
            "It is not used."
        )
    found: dict[int, tuple[float, int]] = {}
    for name, entry in given.items():
        digits = name.removeprefix("token_id:")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 12):
            raise SignalError(
                f"The served model's answer names tokens at position {place} by their text, which several tokens may share: it "
                "must name them by id, as vLLM does."
            )
        token = int(digits)
        value, rank = (entry.get("logprob"), entry.get("rank")) if isinstance(entry, Mapping) else (entry, None)
        number = checked(value, f"token {token} at position {place}")
        if (token >= classes and not _pads(token, entry, classes)) or token in found:
            raise SignalError(
                f"The served model's answer has the token {token} at position {place} "
                + (
                    "twice."
                    if token in found
                    else f"of a vocabulary of {classes}: it is the vocabulary of another model."
                )
            )
        found[token] = (number, rank if isinstance(rank, int) and not isinstance(rank, bool) else 0)
    return found


def checked(value: Any, what: str) -> float:
    """A log-probability of ``what``, at least `NEVER`.

    Raises:
        SignalError: it is none.
    """
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not number <= _SLACK:
        raise SignalError(
            f"The served model's log-probability of {what} is "
            + ("no number" if number != number else "above zero")
            + ": the model has overflowed, or the server is broken. It is not used."
            + f" {_RAW}" * (number > _SLACK)
        )
    return float(max(number, NEVER))


def demand_sum(logs: Sequence[float], where: str) -> None:
    """Log-probabilities of several tokens are of one distribution.

    Raises:
        SignalError: their probabilities sum to more than 1.
    """
    if sum(map(math.exp, logs)) > 1 + _SLACK:
        raise SignalError(
            f"The served model's probabilities at {where} sum to {sum(map(math.exp, logs)):.4g}: these are no "
            "log-probabilities in nats."
        )


def _pads(token: int, entry: Any, classes: int) -> bool:
    """Whether it may pad a vocabulary of so many tokens: it has no text, and is not far beyond them."""
    text = entry.get("decoded_token", "unknown") if isinstance(entry, Mapping) else "unknown"
    return not text and token < -(-classes // _PADDED) * _PADDED + _PADDED


def _likeliest(entries: Mapping[int, tuple[float, int]], top: int) -> tuple[list[int], list[float]]:
    """The ``top`` likeliest, in order, without what cannot be."""
    kept = [
        (-value, token)
        for token, (value, rank) in entries.items()
        if rank <= len(entries)
        and value > NEVER  # one that stands beside the likeliest m - 1 of m has a rank of m or more
    ]
    kept = sorted(kept)[:top]
    return [token for _, token in kept], [-value for value, _ in kept]


def _with_own(ids: list[int], logs: list[float], entries: Mapping[int, tuple[float, int]], top: int, own: int) -> None:
    """Puts the text's ``own`` token, if it can be and is none of them, in the last one's place."""
    value, _ = entries.get(own, (NEVER, 0))
    if own not in ids and value > NEVER:
        ids[top - 1 :], logs[top - 1 :] = [own], [value]
