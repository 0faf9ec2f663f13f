"""Two hundred of each kind of bad answer of a served model: no bad row is kept or shown, and each request is sent again by one
layer alone, a bounded number of times.
"""

import contextlib
import json
import math
import sqlite3
import threading
import time

import pytest
import torch
from tests.fakes.openai_server import Fake, Tiny, V, running

from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.teachers.served.answers import FILE
from limbeck.teachers.served.client import Client
from limbeck.teachers.served.ledger import Ledger
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.teacher import ServedTeacher

LOGITS = frozenset({"logits"})
LENGTH, TRIES = 8, 3


def texts(rows):
    """All different, and of so many tokens that an answer to one hardly fits another by chance."""
    return Batch.of({"input_ids": torch.randint(0, V, (rows, LENGTH), generator=torch.Generator().manual_seed(0))})


class Server(Fake):
    """Misbehaves when ``bad`` says so of the how manieth time a text is asked. ``sent``: bad answers; ``tries``: of each text."""

    def __init__(self, make, bad):
        super().__init__(Tiny())
        self.make, self.bad, self.sent, self.tries, self._count = make, bad, 0, {}, threading.Lock()
        self.before = None  # the last answer that was to another text
        self.quirk = self._misbehave

    def _misbehave(self, number, answer):
        prompt = tuple(answer["choices"][0]["prompt_token_ids"])
        with self._count:
            self.tries[prompt] = self.tries.get(prompt, 0) + 1
            bad, other = self.bad(self.tries[prompt]), self.before
            self.sent += bad
            if other is None or other["choices"][0]["prompt_token_ids"] != list(prompt):
                self.before = answer
        return self.make(answer, other) if bad else answer


def changed(**within):
    return lambda answer, other: {**answer, "choices": [{**answer["choices"][0], **within}]}


def logs(value):
    """The answer with ``value`` for the likeliest token's log-probability at one position."""

    def make(answer, other):
        given = [dict(one) if one else one for one in answer["choices"][0]["prompt_logprobs"]]
        given[2] = {name: {**one, "logprob": value} if one["rank"] == 1 else one for name, one in given[2].items()}
        return changed(prompt_logprobs=given)(answer, other)

    return make


def lacking(answer, other):
    given = list(answer["choices"][0]["prompt_logprobs"])
    given[3] = None
    return changed(prompt_logprobs=given)(answer, other)


def cut(answer, other):
    def write(handler):
        body = json.dumps(answer).encode()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[: len(body) // 2])
        handler.close_connection = True

    return write


def late(answer, other):
    def write(handler):
        with contextlib.suppress(OSError):
            time.sleep(3)  # longer than the client waits

    return write


def unechoed(answer, other):
    """Somebody else's answer, by a server that does not say whose it is, so that the numbers alone tell."""
    return changed(prompt_token_ids=None)(only_likeliest(other or strange(answer)), None)


def reordered(answer, other):
    return other or strange(answer)


def strange(answer):
    """The answer as if it were to other tokens."""
    ids = answer["choices"][0]["prompt_token_ids"]
    return changed(prompt_token_ids=[(one + 1) % V for one in ids])(answer, None)


def only_likeliest(answer):
    given = answer["choices"][0]["prompt_logprobs"]
    few = [one and {name: entry for name, entry in one.items() if entry["rank"] <= 5} for one in given]
    return changed(prompt_logprobs=few)(answer, None)


PASSING = {
    "429": lambda answer, other: (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}),
    "500": lambda answer, other: (500, {}, {"error": {"message": "oops"}}),
    "time-out": late,
    "cut body": cut,
    "truncated JSON": lambda answer, other: (200, {}, json.dumps(answer).encode()[:-40]),
    "HTML": lambda answer, other: (200, {"Content-Type": "text/html"}, b"<html>welcome</html>"),
    "empty choices": lambda answer, other: {**answer, "choices": []},
}
WAITS = {"time-out": 1.0}  # seconds; a good answer must not come later than that on a busy machine
REFUSED = {
    "NaN": logs(math.nan),
    "positive": logs(0.5),
    "missing position": lacking,
    "missing log-probabilities": changed(prompt_logprobs=None),
    "wrong model": lambda answer, other: {**answer, "model": "tiny-2026"},
    "reordered batch": reordered,
    "reordered batch, unechoed": unechoed,
}


def teacher(server, folder, timeout=60.0):
    served = Served(url=server.url, model="tiny", top=5, timeout=timeout, retries=TRIES - 1, concurrency=16)
    folder.mkdir(exist_ok=True)
    client = Client(served, Ledger(folder, served.limit), sleep=lambda seconds: time.sleep(0.001))
    return ServedTeacher(served, V, folder, client=client)


def right(shown, batch):
    """Whether every row is the local model's: its five likeliest tokens, or four and the text's next one."""
    with torch.no_grad():
        wanted = torch.log_softmax(Tiny()(batch.inputs["input_ids"]).double(), -1)
    ids, told = shown.ids[:, :-1].long(), shown.log_probabilities[:, :-1].double()
    true = wanted[:, :-1].gather(-1, ids.clamp_min(0))
    return bool((ids >= 0).all() and torch.allclose(told, true, rtol=0, atol=1e-6))


def kept(folder):
    """How many rows are on the disk."""
    with contextlib.closing(sqlite3.connect(folder / FILE)) as base:
        return base.execute("SELECT COUNT(*) FROM answers").fetchone()[0]


def passes(kind, rows, folder, tried):
    """Each text is answered badly until its last try: all are right in the end, and were asked just so often."""
    batch, server = texts(rows), Server(PASSING[kind], lambda nth: nth < TRIES)
    with running(server), teacher(server, folder, WAITS.get(kind, 60.0)) as one:
        assert right(one.observe(batch, LOGITS)["logits"], batch)
    assert kept(folder) == rows
    assert server.sent >= (TRIES - 1) * rows
    if kind != "time-out":  # a good answer may come too late as well
        assert set(server.tries.values()) == {TRIES}
    tried(bad_answers=server.sent)


def is_given_up(kind, folder):
    """One that is always bad is sent as often as ``retries`` say, and no more: no other layer sends it again."""
    batch, server = texts(1), Server(PASSING[kind], lambda nth: True)
    with (
        running(server),
        teacher(server, folder, WAITS.get(kind, 60.0)) as one,
        pytest.raises(LimbeckError, match="no answer in 3 tries"),
    ):
        one.observe(batch, LOGITS)
    assert list(server.tries.values()) == [TRIES]
    assert kept(folder) == 0


def is_refused(kind, rows, folder, tried):
    """Each of so many bad answers is refused at once and not kept; the good ones of the same texts then are."""
    batch, server = texts(rows + 1), Server(REFUSED[kind], lambda nth: False)
    with running(server), teacher(server, folder) as one:
        one.observe(batch.select(torch.tensor([rows])), LOGITS)  # one that was answered before
        server.bad = lambda nth: nth == 1
        for row in range(rows):
            with pytest.raises(LimbeckError):
                one.observe(batch.select(torch.tensor([row])), LOGITS)
        assert server.sent == rows
        assert set(server.tries.values()) == {1}
        assert kept(folder) == 1
        assert right(one.observe(batch, LOGITS)["logits"], batch)
    assert kept(folder) == rows + 1
    tried(bad_answers=rows)


@pytest.mark.proof("Q8")
@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_asked_again_and_what_is_kept_is_right(tmp_path, kind, tried):
    passes(kind, 6, tmp_path / "passes", tried)
    is_given_up(kind, tmp_path / "given up")


@pytest.mark.proof("Q8")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_wrong_is_refused_and_never_kept(tmp_path, kind, tried):
    is_refused(kind, 12, tmp_path, tried)


@pytest.mark.faults
@pytest.mark.proof("Q8")
@pytest.mark.parametrize("kind", PASSING)
def test_two_hundred_that_may_pass(tmp_path, kind, tried):
    passes(kind, 100, tmp_path / "passes", tried)
    is_given_up(kind, tmp_path / "given up")


@pytest.mark.faults
@pytest.mark.proof("Q8")
@pytest.mark.parametrize("kind", REFUSED)
def test_two_hundred_that_are_wrong(tmp_path, kind, tried):
    is_refused(kind, 200, tmp_path, tried)
