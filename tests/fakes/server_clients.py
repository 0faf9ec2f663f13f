"""Clients of a server that misbehaves, and what they say."""

import pytest
import torch
from tests.fakes.openai_server import Clock, V

from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.teachers.served.client import Client
from limbeck.teachers.served.ledger import Ledger
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.teacher import ServedTeacher

LOGITS = frozenset({"logits"})
BATCH = Batch.of({"input_ids": torch.tensor([[3, 14, 15, 9, 26, 5], [2, 7, 1, 8, 28, 18]])})


def made(fake, folder=None, kind=ServedTeacher, what=V, **more):
    served = Served(
        **{"url": fake.url, "model": "tiny", "top": 5, "timeout": 10.0, "retries": 2, "concurrency": 1} | more
    )
    clock = Clock()
    return kind(served, what, folder, client=Client(served, Ledger(None, served.limit), clock=clock, sleep=clock.sleep))


def said(act, kind=LimbeckError):
    """The paragraph that ``act`` is refused with."""
    with pytest.raises(kind) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text
