"""How fast a server is asked: a sliding minute, and pauses that the server asks for."""

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Final

from limbeck.errors import LimbeckError
from limbeck.teachers.served.settings import Rate

MINUTE: Final = 60.0


class Pace:
    """Lets through at most so many requests and tokens in any minute.

    ``clock``: seconds, never backwards. ``sleep``: waits so many seconds, for less if it is interrupted.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float], sleep: Callable[[float], object]) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._lock = Lock()
        self._recent: deque[tuple[float, int]] = deque()
        self._quiet_until = -float("inf")

    def wait(self, tokens: int, stopped: Callable[[], bool] = lambda: False) -> None:
        """Returns when a request of at most ``tokens`` may be sent, or when ``stopped``.

        Raises:
            LimbeckError: no minute takes so many.
        """
        if self._rate.tokens is not None and tokens > self._rate.tokens:
            raise LimbeckError(
                f"One request to the served model may take {tokens} tokens, and 'rate' allows {self._rate.tokens} a minute: "
                "raise it, or shorten the texts."
            )
        while not stopped():
            with self._lock:
                now = self._clock()
                if (delay := self._delay(now, tokens)) <= 0:
                    self._recent.append((now, tokens))
                    return
            self._sleep(delay)

    def pause(self, seconds: float) -> None:
        """Nobody sends anything for so long."""
        with self._lock:
            self._quiet_until = max(self._quiet_until, self._clock() + seconds)

    def _delay(self, now: float, tokens: int) -> float:
        while self._recent and self._recent[0][0] + MINUTE <= now:
            self._recent.popleft()
        if now < self._quiet_until:
            return self._quiet_until - now
        rate, held = self._rate, self._recent
        sent = sum(one for _, one in held)
        if rate.requests is not None and len(held) >= rate.requests:
            return held[0][0] + MINUTE - now
        for then, one in held:
            if rate.tokens is None or sent + tokens <= rate.tokens:
                break
            sent -= one
            if sent + tokens <= rate.tokens:
                return then + MINUTE - now
        return 0.0
