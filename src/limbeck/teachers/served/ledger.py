"""What was spent: the worst case of a request is written down before it is sent, and what it did cost afterwards."""

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any, Final, Self

from limbeck.errors import LimbeckError
from limbeck.files import held, sync
from limbeck.teachers.served.settings import Limit, Prices

FILE: Final = "spending.jsonl"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens sent and tokens written."""

    input: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class Cost:
    """Money in the currency of the prices, and tokens."""

    money: float = 0.0
    tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.money + other.money, self.tokens + other.tokens)


class Ledger:
    """Counts over all runs that use ``folder``, and refuses what might pass the limit.

    A request that was under way when the process was killed counts with its worst case. A lost settlement costs allowance, and
    never the other way round: a reservation is on the disk before anything is sent.

    Args:
        folder: where ``spending.jsonl`` is, which is only ever appended to; None: counted in memory.
        limit: what may be spent in all.
        prices: what tokens cost; without them money is 0.

    Raises:
        Busy: another process counts there.
        LimbeckError: the file has a line that is no entry.
    """

    def __init__(self, folder: Path | None, limit: Limit, prices: Prices | None = None) -> None:
        self._limit, self._prices = limit, prices
        self._open: dict[int, Cost] = {}
        self._spent = Cost()
        self._next = 0
        self._changed = Condition()
        self._stack = ExitStack()
        self._handle: int | None = None
        self.path = None if folder is None else folder / FILE
        if folder is not None:
            self._stack.enter_context(held(folder, "what a served model costs is counted there"))
            with self._stack:
                self._begin(folder / FILE)
                self._stack = self._stack.pop_all()  # held on, unless the file could not be read

    @property
    def spent(self) -> Cost:
        """What was paid, and what killed runs may have paid."""
        return self._spent

    @property
    def reserved(self) -> Cost:
        """The worst case of what is under way."""
        return sum(self._open.values(), Cost())

    def cost(self, tokens: Tokens) -> Cost:
        """What so many tokens cost."""
        price = self._prices
        money = 0.0 if price is None else (tokens.input * price.input + tokens.output * price.output) / 1e6
        return Cost(money, tokens.total)

    def reserve(self, worst: Tokens) -> int:
        """The number of a new entry for a request that costs at most ``worst``.

        It waits while requests under way may yet leave room. What is free is never refused.

        Raises:
            LimbeckError: the limit might be passed, or the disk is full. Nothing must be sent then.
        """
        cost = self.cost(worst)
        with self._changed:
            while cost != Cost() and self._passes(self._spent + self.reserved + cost):
                if not self._open:
                    raise LimbeckError(self._refusal(cost))
                self._changed.wait()
            number = self._next
            self._write({"reserve": number, "money": cost.money, "tokens": cost.tokens})
            self._next += 1
            self._open[number] = cost
            return number

    def settle(self, number: int, used: Tokens) -> None:
        """The request ``number`` cost ``used``."""
        cost = self.cost(used)
        with self._changed:
            try:
                self._write({"settle": number, "money": cost.money, "tokens": cost.tokens})
            finally:
                del self._open[number]
                self._spent += cost
                self._changed.notify_all()

    def close(self) -> None:
        """Lets go of the folder."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, path: Path) -> None:
        new = not path.exists()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if new:
            sync(path.parent)
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self._handle, len(whole))  # a line that a kill cut was never acted upon
        reserved: dict[int, Cost] = {}
        for line, text in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(text)
                cost = Cost(float(entry["money"]), int(entry["tokens"]))
                if not (cost.money >= 0 and cost.tokens >= 0):
                    raise ValueError
                if "reserve" in entry:
                    reserved[entry["reserve"]] = cost
                    self._next = max(self._next, entry["reserve"] + 1)
                else:
                    del reserved[entry["settle"]]
                    self._spent += cost
            except (ValueError, KeyError, TypeError):
                os.close(self._handle)
                raise LimbeckError(
                    f"Line {line} of {path} is no entry of what was spent: the file was altered or the disk is failing. Put it "
                    "right, or move it away to count from nothing."
                ) from None
        self._spent = sum(reserved.values(), self._spent)

    def _write(self, entry: dict[str, Any]) -> None:
        if self._handle is None:
            return
        before = os.fstat(self._handle).st_size
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        try:
            if os.write(self._handle, line) < len(line):
                raise OSError("the disk is full")
            os.fsync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, before)
            raise LimbeckError(f"{self.path} cannot be written, so nothing more is asked: {error}.") from None

    def _passes(self, cost: Cost) -> bool:
        money, tokens = self._limit.money, self._limit.tokens
        return (money is not None and cost.money > money) or (tokens is not None and cost.tokens > tokens)

    def _refusal(self, cost: Cost) -> str:
        money, tokens = self._limit.money, self._limit.tokens
        parts = (
            []
            if money is None
            else [f"{self._spent.money:.6g} of {money:g} in money, the next at most {cost.money:.6g}"]
        )
        parts += [] if tokens is None else [f"{self._spent.tokens} of {tokens} tokens, the next at most {cost.tokens}"]
        return (
            f"The next request to the served model might pass the limit: spent so far {' and '.join(parts)}. It was not sent, "
            "and all that was paid for is kept. Raise 'limit', and the same command goes on from there."
        )
