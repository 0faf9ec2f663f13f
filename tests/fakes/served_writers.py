"""A served model that is asked for texts alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from limbeck.teachers.served.account import Account
from limbeck.teachers.served.client import Client
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.writer import Sampling, ServedWriter


@contextmanager
def writing(
    served: Served, sampling: Sampling, folder=None, top: int = 0, client: Client | None = None
) -> Iterator[ServedWriter]:
    """Opens an account for the length of the block."""
    with Account(served, folder, client=client) as account:
        yield ServedWriter(account, sampling, top)
