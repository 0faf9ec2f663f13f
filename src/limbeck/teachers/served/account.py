"""A served model as it is asked from here: what it is, what it answered, and what that cost."""

from pathlib import Path
from typing import Self, cast

from limbeck.teachers.expense import Expense
from limbeck.teachers.served.answers import Answers
from limbeck.teachers.served.client import Client
from limbeck.teachers.served.ledger import Ledger, Tokens
from limbeck.teachers.served.settings import Served


class Account:
    """All that asks a served model shares one.

    Args:
        served: which model, and how.
        folder: where answers are kept and spending is counted; None: neither outlives the process.
        client: asks; by default one over ``served``.

    Raises:
        LimbeckError: the server cannot be reached or does not have the model, or the key is not there.
        Busy: another process counts in ``folder``.
    """

    def __init__(self, served: Served, folder: Path | None = None, *, client: Client | None = None) -> None:
        self.served = served
        self._owned = Ledger(folder, served.limit, served.prices) if client is None else None
        try:
            self.client = client or Client(served, cast(Ledger, self._owned))
            self.said = self.client.described()
            self.answers = Answers(folder)
        except BaseException:
            if self._owned is not None:
                self._owned.close()
            raise

    def expense(self, requests: int, tokens: Tokens) -> Expense:
        """What so much takes, beside what the limits leave."""
        ledger, limit = self.client.ledger, self.served.limit
        cost, spent = ledger.cost(tokens), ledger.spent
        left, beyond = [], False
        if limit.money is not None:
            left.append(f"{max(0.0, limit.money - spent.money):.4g} of {limit.money:.4g} in money")
            beyond |= spent.money + cost.money > limit.money
        if limit.tokens is not None:
            left.append(f"{max(0, limit.tokens - spent.tokens):,} of {limit.tokens:,} tokens")
            beyond |= spent.tokens + cost.tokens > limit.tokens
        return Expense(
            requests=requests,
            input=tokens.input,
            output=tokens.output,
            money=cost.money,
            priced=self.served.prices is not None,
            spent_money=spent.money,
            left=" and ".join(left),
            beyond=beyond and requests > 0,
        )

    def close(self) -> None:
        """Ends what it opened."""
        self.answers.close()
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
