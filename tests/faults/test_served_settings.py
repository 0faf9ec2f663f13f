"""A server's key is sent to it and shown nowhere; settings, limits and the disk of what asks it."""

import logging
import math
import traceback

import pytest
from tests.fakes.openai_server import Fake, Tiny, running
from tests.fakes.served_writers import writing
from tests.fakes.server_clients import BATCH, LOGITS, made, said

from limbeck.errors import Busy, LimbeckError, SettingError
from limbeck.teachers.served.ledger import FILE, Ledger, Tokens
from limbeck.teachers.served.settings import Limit, Prices, Rate, Served
from limbeck.teachers.served.writer import Sampling

KEY = "sk-canary-7f3a9c51e2b84d60"


@pytest.fixture
def fake():
    with running(Fake(Tiny())) as one:
        yield one


# The key


@pytest.mark.proof("Q14")
def test_the_key_is_sent_and_nowhere_else(fake, tmp_path, monkeypatch, caplog, capsys, tried):
    monkeypatch.setenv("MY_KEY", KEY)
    bodies = [
        (401, {}, {"error": {"message": f"Incorrect API key provided: {KEY}"}}),
        (400, {}, f"<html>Bearer {KEY}".encode()),
        (500, {}, {"error": {"message": "x" * 290 + KEY}}),
        (307, {"Location": f"http://evil/{KEY}"}, b""),
        (429, {"Retry-After": "9999"}, {"error": KEY}),
        (200, {}, KEY.encode()),
        {"model": KEY},
        {"model": "tiny", "choices": [{"prompt_logprobs": [None] + [{KEY: 1}] * 5}]},
        {"model": "tiny", "choices": [{"prompt_logprobs": [None] + [{"1": KEY}] * 5}]},
    ]
    seen = []
    with caplog.at_level(logging.DEBUG), made(fake, tmp_path, key_from="MY_KEY") as teacher:
        seen += [repr(teacher.client._key), repr(teacher.served), teacher.served.plain(), teacher.fingerprint]
        for body in bodies:
            fake.quirk = lambda number, answer, body=body: body
            with pytest.raises(LimbeckError) as caught:
                teacher.observe(BATCH, LOGITS)
            seen += ["".join(traceback.format_exception(caught.value)), repr(caught.value)]
        fake.quirk = lambda number, answer: answer
        teacher.observe(BATCH, LOGITS)
    with made(fake, tmp_path, writing, Sampling(max_tokens=9), key_from="MY_KEY") as writer:
        fake.quirk = lambda number, answer: {
            **answer,
            "choices": [{"message": {"content": f"the key is {KEY}"}, "finish_reason": "stop"}],
        }
        seen.append(writer.write(["a"]))
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in fake.headers)
    shown = capsys.readouterr()
    everything = " ".join(map(str, [*seen, caplog.text, shown.out, shown.err]))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) > 1000
    for part in (KEY, KEY[:12]):
        assert part not in everything
        assert part.encode() not in written
    tried(places_looked_into=len(seen) + 2)


@pytest.mark.proof("Q14")
def test_a_short_key_is_not_shown_either(fake, monkeypatch, tried):
    monkeypatch.setenv("MY_KEY", "t0ps3cret")
    for status, before in ((401, 0), (401, 292), (503, 0), (503, 292)):  # where it might be cut in two
        body = {"error": "x" * before + "t0ps3cret"}
        fake.quirk = lambda number, answer, status=status, body=body: (status, {}, body)
        with made(fake, key_from="MY_KEY") as teacher:
            text = said(lambda teacher=teacher: teacher.observe(BATCH, LOGITS))
            assert "t0p" not in text
    tried(places_looked_into=4)


def test_no_key_is_sent_unless_one_is_named(fake, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with made(fake) as teacher:
        teacher.observe(BATCH, LOGITS)
    assert all("Authorization" not in headers for headers in fake.headers)


@pytest.mark.parametrize("value", [None, "", "   ", "sk-a b-canary", "sk-canary\nX-Evil: 1", "sk-canäry"])
def test_a_key_that_is_not_there_or_is_none(fake, monkeypatch, value):
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    text = said(lambda: made(fake, key_from="MY_KEY"))
    assert "MY_KEY" in text
    assert "sk-" not in text


# Settings, limits and the disk


@pytest.mark.parametrize(
    "more",
    [
        {"url": "127.0.0.1:8000"},
        {"url": "ftp://a/v1"},
        {"url": "http://user:pw@a/v1"},
        {"url": "http://a/v1?key=x"},
        {"url": "http://a:99999/v1"},
        {"url": "http://a/v1\nX: y"},
        {"limit": Limit(money=1.0)},
        {"top": 3, "least": 4},
        {"top": 0},
        {"timeout": 0.0},
        {"timeout": math.inf},
        {"concurrency": 0},
        {"model": ""},
        {"key": "sk-x"},
    ],
)
def test_settings_that_make_no_sense_are_refused(more):
    text = said(lambda: Served(**{"url": "http://a/v1", "model": "m"} | more), SettingError)
    assert "user:pw" not in text


def test_a_request_larger_than_its_rate_is_refused(fake):
    with made(fake, rate=Rate(tokens=5)) as teacher:
        assert "may take 7 tokens, and 'rate' allows 5" in said(lambda: teacher.observe(BATCH, LOGITS))


def test_two_do_not_count_in_one_folder(tmp_path):
    with Ledger(tmp_path, Limit()):
        said(lambda: Ledger(tmp_path, Limit()), Busy)
    Ledger(tmp_path, Limit()).close()


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"3",
        b'{"reserve": 0}',
        b'{"settle": 4, "money": 0, "tokens": 1}',
        b'{"reserve": 0, "money": NaN, "tokens": 1}',
        b"\xff",
    ],
)
def test_a_ledger_that_was_altered_is_refused_and_left_free(tmp_path, line):
    (tmp_path / FILE).write_bytes(line + b"\n")
    for _ in range(2):
        assert "Line 1" in said(lambda: Ledger(tmp_path, Limit()))


def test_a_full_disk_sends_nothing_and_damages_nothing(fake, tmp_path, monkeypatch):
    with Ledger(tmp_path, Limit(), Prices(input=1.0, output=1.0)) as ledger:
        ledger.settle(ledger.reserve(Tokens(3)), Tokens(3))
        monkeypatch.setattr("os.write", lambda handle, content: _half(handle, content))
        assert "cannot be written" in said(lambda: ledger.reserve(Tokens(2)))
        monkeypatch.undo()
        ledger.reserve(Tokens(4))  # there is room again
    with Ledger(tmp_path, Limit()) as ledger:
        assert ledger.spent.tokens == 7


def _half(handle, content):
    with open(handle, "ab", closefd=False) as stream:
        return stream.write(content[: len(content) // 2])


def test_kept_answers_that_are_no_such_file(fake, tmp_path):
    (tmp_path / "answers.sqlite").write_bytes(b"not a database, surely" * 99)
    assert "cannot be used" in said(lambda: made(fake, tmp_path))
