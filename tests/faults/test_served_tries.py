"""A server that fails: tries, time and reading are bounded, and what does not pass is told at once."""

import contextlib
import json
import time

import pytest
import torch
from tests.fakes.openai_server import Fake, Tiny, running
from tests.fakes.server_clients import BATCH, LOGITS, made, said

from limbeck.data.batch import Batch
from limbeck.teachers.served.ledger import Tokens


@pytest.fixture
def fake():
    with running(Fake(Tiny())) as one:
        yield one


def _reset(handler):
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"model": ')


def _nothing(handler):
    handler.close_connection = True


def _chunks_cut(handler):
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"model": ')


PASSING = {
    "500": lambda answer: (500, {}, {"error": {"message": "oops"}}),
    "503 in HTML": lambda answer: (503, {}, b"<html>busy</html>"),
    "429": lambda answer: (429, {"Retry-After": "2"}, {"error": "slow"}),
    "408": lambda answer: (408, {}, b""),
    "a reset": lambda answer: _reset,
    "chunks that are cut": lambda answer: _chunks_cut,
    "nothing": lambda answer: _nothing,
    "HTML": lambda answer: (200, {}, b"<html>welcome</html>"),
    "cut JSON": lambda answer: (200, {}, json.dumps(answer).encode()[:-40]),
    "a list": lambda answer: [answer],
    "no bytes": lambda answer: (200, {}, b""),
    "deep JSON": lambda answer: (200, {}, b"[" * 100_000),
    "no choices": lambda answer: {**answer, "choices": []},
    "null choices": lambda answer: {**answer, "choices": None},
    "bytes that are no text": lambda answer: (200, {}, b"\xff\xfe\x00\xd8"),
}


@pytest.mark.parametrize("case", PASSING)
@pytest.mark.proof("Q8")
def test_what_may_pass_is_asked_again_and_given_up_after_some_tries(fake, case, tried):
    quirk = PASSING[case]
    fake.quirk = lambda number, answer: quirk(answer) if number in (1, 3) else answer
    with made(fake) as teacher:
        assert (teacher.observe(BATCH, LOGITS)["logits"].ids[:, :-1] >= 0).all()
        assert len(fake.asked) == 4
        fake.quirk = lambda number, answer: quirk(answer)
        other = Batch.of({"input_ids": torch.tensor([[1, 2, 3]])})
        assert "no answer in 3 tries" in said(lambda: teacher.observe(other, LOGITS))
        assert len(fake.asked) == 7
        teacher.client.ledger.reserve(Tokens(1))  # nothing is held for what failed
        assert teacher.client.ledger.reserved.tokens == 1
    tried(bad_answers=5)


@pytest.mark.parametrize(("status", "tokens"), [(500, 0), (503, 0), (429, 0), (408, 3 * 7), (502, 3 * 7), (504, 3 * 7)])
def test_what_a_gateway_gave_up_counts_as_charged(fake, status, tokens):
    fake.quirk = lambda number, answer: (status, {}, b"")
    with made(fake) as teacher:
        said(lambda: teacher.observe(BATCH, LOGITS))
    assert teacher.client.ledger.spent.tokens == tokens


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"])
@pytest.mark.proof("Q8")
def test_a_slow_drip_is_cut_when_time_is_up(fake, head, tried):
    def drips(handler):
        with contextlib.suppress(OSError):
            handler.wfile.write(head)
            for letter in b"X-Dripping: " * 20:
                time.sleep(0.03)
                handler.wfile.write(bytes([letter]))

    fake.quirk = lambda number, answer: drips
    with made(fake, timeout=0.3, retries=0) as teacher:
        start = time.monotonic()
        text = said(lambda: teacher.observe(Batch.of({"input_ids": torch.tensor([[1, 2, 3]])}), LOGITS))
        assert time.monotonic() - start < 3  # the drip would take 7 seconds
    if head:
        assert "within 0.3 seconds" in text
    assert teacher.client.ledger.spent.tokens == 4  # it may have been charged for
    tried(bad_answers=1)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.proof("Q8")
def test_an_endless_body_is_not_read(fake, told, tried):
    wrote = [0]

    def endless(handler):
        length = b"Content-Length: 9000000000\r\n" if told else b"Connection: close\r\n"
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        with contextlib.suppress(OSError):
            for _ in range(4000):
                handler.wfile.write(b" " * 2**16)
                wrote[0] += 2**16

    fake.quirk = lambda number, answer: endless
    with made(fake) as teacher:
        assert "it was not read" in said(lambda: teacher.observe(BATCH, LOGITS))
    assert wrote[0] < 2**25
    assert len(fake.asked) == 1
    tried(bad_answers=1)


STATUS = {
    "no key": (401, {"error": {"message": "no key"}}, "refuses the key (none"),
    "forbidden": (403, {"detail": "not for you"}, "not for you"),
    "no such model": (404, {"error": {"message": "The model does not exist"}}, "has no model 'tiny'"),
    "too long": (400, {"object": "error", "message": "This model's maximum context length is 64 tokens"}, "max-length"),
    "a cap": (
        400,
        {"error": {"message": "Requested prompt logprobs of 5, which is greater than max allowed: 3"}},
        "--max-logprobs 5",
    ),
    "no template": (400, {"error": {"message": "you must provide a chat template"}}, "no chat template"),
    "quota": (
        429,
        {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}},
        "nothing left to spend",
    ),
    "payment": (402, {"error": {"message": "pay"}}, "nothing left to spend"),
    "unknown": (418, b"<h1>teapot\x1b[31m</h1>" * 99, "status 418"),
    "a redirect": (307, b"", "sends requests on to 'http://127.0.0.1:9/v1'"),
}


@pytest.mark.parametrize("case", STATUS)
@pytest.mark.proof("Q8")
def test_what_does_not_pass_is_told_at_once(fake, case, tried):
    status, body, words = STATUS[case]
    fake.quirk = lambda number, answer: (status, {"Location": "http://127.0.0.1:9/v1"}, body)
    with made(fake) as teacher:
        text = said(lambda: teacher.observe(BATCH, LOGITS))
    assert words in text
    assert len(text) < 700
    assert text.isprintable()
    assert len(fake.asked) == 1
    assert teacher.client.ledger.spent.tokens == 0
    tried(bad_answers=1)


def test_a_pause_beyond_patience_is_not_waited_for(fake):
    fake.quirk = lambda number, answer: (429, {"Retry-After": "86400"}, {"error": "tomorrow"})
    with made(fake) as teacher:
        assert "86400 seconds" in said(lambda: teacher.observe(BATCH, LOGITS))


@pytest.mark.parametrize("value", ["", "soon", "nan", "-5", "inf", "Mon, 99 Foo"])
def test_a_pause_that_is_no_time_is_not_obeyed(fake, value):
    fake.quirk = lambda number, answer: (503, {"Retry-After": value}, b"") if number == 1 else answer
    with made(fake) as teacher:
        teacher.observe(BATCH, LOGITS)


def test_one_failure_stops_the_others_and_keeps_what_was_answered(fake, tmp_path):
    batch = Batch.of({"input_ids": torch.arange(30)[:, None].repeat(1, 4)})
    fake.quirk = lambda number, answer: (400, {}, {"error": "no"}) if number == 9 else answer
    with made(fake, tmp_path) as teacher:
        assert "refuses a request" in said(lambda: teacher.observe(batch, LOGITS))
        assert len(fake.asked) == 9
        teacher.observe(batch, LOGITS)  # the same client goes on
    assert len(fake.asked) == 9 + 22


def test_nobody_is_there(fake):
    assert "no answer in 2 tries" in said(lambda: made(fake, url="http://127.0.0.1:9/v1", retries=1))
