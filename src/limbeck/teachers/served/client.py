"""Requests to a served model: the one layer that sends again, under the limits of money and pace."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any, Final, TypeVar, cast

from limbeck.errors import LimbeckError, nearest
from limbeck.teachers.served import refusals
from limbeck.teachers.served.ledger import Ledger, Tokens
from limbeck.teachers.served.pace import Pace
from limbeck.teachers.served.secret import Key
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.transport import Broken, Endless, Reply, exchange

Json = Mapping[str, Any]
T = TypeVar("T")

PATIENCE: Final = 600.0
"""A server that wants a longer pause, in seconds, is given up."""
_SMALL: Final = 2**22  # bytes of an answer without log-probabilities
_ABSURD: Final = 2**40  # tokens of one request
_FIRST, _LONGEST = 0.5, 60.0  # seconds of the first and of the longest pause of our own


class Unanswered(Exception):
    """An answer that says nothing, and may say something the next time."""


class Client:
    """Asks one model.

    Args:
        served: which model, and how.
        ledger: counts what is spent; it may be shared.
        clock: seconds, never backwards.
        sleep: waits so many seconds; by default for less if another request has failed for good.
        seed: of the pauses, so that many clients do not come back at once.

    Raises:
        LimbeckError: the key is not there.
    """

    def __init__(
        self,
        served: Served,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        seed: int = 0,
    ) -> None:
        self.served, self.ledger = served, ledger
        self._key = Key(served.key_from)
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._pace = Pace(served.rate, clock, self._sleep)
        self._random = Random(seed)  # noqa: S311 - no secret

    def described(self) -> Json:
        """What the server says of the model.

        Raises:
            LimbeckError: it does not know it, or cannot be reached.
        """

        def entry(answer: Json) -> Json:
            found = answer.get("data")
            if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
                raise LimbeckError(f"{self.served.url}/models has no list of models. Does 'url' end in /v1?")
            known = {str(one.get("id")): one for one in found}
            if self.served.model not in known:
                hint = nearest(self.served.model, list(known), 1)
                some = self._said(", ".join(list(known)[:5]) or "none")
                said = f"The server at {self.served.url} has no model {self.served.model!r}; it has: {some}. {self._said(hint)}"
                raise LimbeckError(said.strip())
            one: Json = known[self.served.model]
            return one

        return self._ask("/models", None, Tokens(), _SMALL, entry)

    def post(self, path: str, body: Json, worst: Tokens, accept: Callable[[Json], T], most: int = _SMALL) -> T:
        """What ``accept`` makes of the answer to ``body`` at ``path``.

        ``accept`` may keep what it reads: it ends before the request is settled. It raises `Unanswered` for an answer that is
        worth asking for again. ``worst``: what the request may cost. ``most``: bytes of the answer.

        Raises:
            LimbeckError: the server refuses, answers unsoundly or not at all, or a limit might be passed.
        """

        def checked(answer: Json) -> T:
            self._demand_same_model(answer)
            return accept(answer)

        return self._ask(path, {"model": self.served.model, **body}, worst, most, checked)

    def each(self, jobs: Iterable[Callable[[], T]]) -> list[T]:
        """The results of ``jobs`` in order, some at a time. If one fails, those under way end: what was paid for is kept."""
        first: list[Exception] = []

        def done(job: Callable[[], T]) -> T | None:
            if self._stopped.is_set():
                return None
            try:
                return job()
            except Exception as error:
                first.append(error)
                self._stopped.set()
                return None

        with ThreadPoolExecutor(self.served.concurrency) as pool:
            futures = [pool.submit(done, job) for job in jobs]
            try:
                found = [future.result() for future in futures]
            except BaseException:  # an interrupt
                self._stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                self._stopped.clear()
        if first:
            raise first[0]
        return cast(list[T], found)

    def _ask(self, path: str, body: Json | None, worst: Tokens, most: int, accept: Callable[[Json], T]) -> T:
        content = None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        trouble = ""
        for attempt in range(self.served.retries + 1):
            self._pace.wait(worst.total, self._stopped.is_set)
            number = self.ledger.reserve(worst)
            used, asked_to_wait = worst, None
            try:
                if self._stopped.is_set():
                    used, trouble = Tokens(), trouble or "another request has failed"
                    break
                reply = self._exchange(path, content, most)
                if reply.status == 200:
                    answer = refusals.read(reply)
                    used = _used(answer, worst)
                    return accept(answer)
                used = worst if reply.status in refusals.WORKED else Tokens()
                words = self._said(refusals.words(reply))
                if not refusals.passing(reply, words):
                    raise LimbeckError(self._key.hidden(refusals.of(self.served, reply, words)))
                trouble, asked_to_wait = f"status {reply.status}: {words}", refusals.wait(reply)
            except Broken as error:
                used = worst if error.sent else Tokens()
                trouble = self._said(str(error)) + ". Is it running, and is 'url' right?" * (not error.sent)
            except Endless as error:
                raise LimbeckError(
                    f"{self.served.url}{path} gave {error}, where a sound one has at most {most}: it was not read. Is this an "
                    "OpenAI-compatible server?"
                ) from None
            except (refusals.Unreadable, Unanswered) as error:
                trouble = self._said(str(error))
            finally:
                self.ledger.settle(number, used)
            if attempt < self.served.retries:
                self._wait(attempt, asked_to_wait, trouble)
        raise LimbeckError(
            f"The server at {self.served.url} gave no answer in {self.served.retries + 1} tries; the last time: "
            f"{refusals.sentence(trouble)} What it did answer is kept, and the same command goes on from there."
        )

    def _exchange(self, path: str, content: bytes | None, most: int) -> Reply:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Type": "application/json",
            "User-Agent": "limbeck",
            **self._key.headers(),
        }
        reply = exchange(self.served.url + path, headers, content, timeout=self.served.timeout, most=most)
        return replace(reply, body=self._key.struck(reply.body))

    def _wait(self, attempt: int, asked: float | None, trouble: str) -> None:
        if asked is not None and asked > PATIENCE:
            raise LimbeckError(
                f"The server at {self.served.url} wants no request for {asked:.0f} seconds ({trouble}): come back then. What it "
                "did answer is kept."
            )
        own = min(_LONGEST, _FIRST * 2**attempt) * self._random.uniform(0.5, 1)
        if asked:
            self._pace.pause(asked)  # it holds for every request, not for this one alone
        else:
            self._sleep(own)

    def _said(self, text: str) -> str:
        """A server's words as they may be shown: one line, no key, no control characters."""
        line = " ".join(self._key.hidden(text).split())
        line = "".join(letter for letter in line if letter.isprintable())
        return line if len(line) <= 300 else line[:297] + "..."

    def _demand_same_model(self, answer: Json) -> None:
        name, asked = answer.get("model"), self.served.model
        if name != asked:
            raise LimbeckError(
                f"The server at {self.served.url} was asked for the model {asked!r} and answered as {self._said(str(name))!r}: "
                "answers of two models must not be mixed. Name the model that answers, with its date if it has one."
            )


def _used(answer: Json, worst: Tokens) -> Tokens:
    """What the server says that it used; the worst case if it does not say."""
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return worst
    told: list[Any] = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    sound = all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < _ABSURD for one in told)
    return Tokens(*told) if sound else worst
