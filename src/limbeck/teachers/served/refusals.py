"""What a server's statuses and bodies mean: which pass by, and what a user can do about the others."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.transport import Reply

_PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
WORKED: Final = frozenset({408, 502, 504})
"""A gateway gave up; the model behind it may have worked, and charged, for the request."""
_SPENT: Final = ("insufficient_quota", "exceeded your current quota", "billing", "credit balance")
_LONG: Final = (
    "context length",
    "maximum context",
    "max_model_len",
    "maximum model length",
    "too long",
    "context window",
    "max_tokens must be at least 1",  # of a text that fills it
)


class Unreadable(Exception):
    """The body is no JSON object."""


def read(reply: Reply) -> Mapping[str, Any]:
    """The body as JSON; NaN and Infinity are read, so that they can be refused by name.

    Raises:
        Unreadable: it is something else, or cut.
    """
    try:
        found = json.loads(reply.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        start = reply.body[:60].decode(errors="replace")
        raise Unreadable(f"an answer of {len(reply.body)} bytes that is no JSON object: {start!r}")
    return found


def words(reply: Reply) -> str:
    """What the server says about a refusal."""
    try:
        found = read(reply)
    except Unreadable:
        return reply.body[:2000].decode(errors="replace")
    error = found.get("error", found)
    if isinstance(error, Mapping):
        code = error.get("code")
        said = [
            error.get("message") or error.get("detail") or error.get("type"),
            code if isinstance(code, str) else None,
        ]
        return sentence(" ".join(str(one) for one in said if one) or str(found))
    return sentence(str(error))


def sentence(said: str) -> str:
    """With a full stop, if it has no end."""
    return said if said.rstrip()[-1:] in (".", "!", "?") else f"{said.rstrip()}."


def passing(reply: Reply, said: str) -> bool:
    """Whether the same request may be answered later."""
    return reply.status in _PASSING and not _any(_SPENT, said)


def wait(reply: Reply) -> float | None:
    """Seconds that the server wants to be left alone; None if it does not say."""
    value = reply.headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
        except ValueError:
            return None
        if then.tzinfo is None:
            then = then.replace(tzinfo=UTC)
        seconds = (then - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def of(served: Served, reply: Reply, said: str) -> str:
    """A paragraph on a status that does not pass by."""
    at, status = served.url, reply.status
    low = said.lower()
    if 300 <= status < 400:
        place = reply.headers.get("location", "nowhere")[:80]
        return (
            f"The server at {at} sends requests on to {place!r} (status {status}); neither texts nor a key follow. If that is "
            "where the model is, write it as 'url'."
        )
    if status in (401, 403):
        source = f"the one in {served.key_from}" if served.key_from else "none, as 'key-from' names no variable"
        return f"The server at {at} refuses the key ({source}; status {status}): {said}"
    if status == 402 or _any(_SPENT, said):
        return f"The account at {at} has nothing left to spend: {said} What was answered is kept."
    if status == 404:
        return (
            f"The server at {at} has no model {served.model!r}, or no such address (status 404): {said} Does 'url' end in /v1, "
            "and does the server offer completions?"
        )
    if "prompt logprobs" in low or ("logprobs" in low and ("max" in low or "allowed" in low)):
        return (
            f"The server at {at} does not give {served.top} log-probabilities a position: {said} Lower 'top', or start vLLM with "
            f"--max-logprobs {served.top}."
        )
    if "chat template" in low or "chat_template" in low:
        return (
            f"The model {served.model!r} at {at} has no chat template: {said} Write 'by: completions' in "
            "teacher.served.writes, or give the server a template."
        )
    if "out of vocabulary" in low:
        return (
            f"The model {served.model!r} at {at} does not know a token that it was sent: {said} The texts were read by another "
            "tokenizer: name the model's own in 'data.tokenizer'."
        )
    if "max_tokens" in low and "output tokens" in low:
        return f"The model {served.model!r} at {at} cannot write so long a text: {said} Lower 'max-tokens'."
    if _any(_LONG, said):
        return f"A text is longer than the model {served.model!r} at {at} reads: {said} Lower 'max-length'."
    return f"The server at {at} refuses a request (status {status}): {said}"


def _any(signs: tuple[str, ...], said: str) -> bool:
    return any(sign in said.lower() for sign in signs)
