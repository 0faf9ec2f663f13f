"""A server that misbehaves: nothing unsound is used or kept, tries are bounded, and what is said helps."""

import contextlib
import json
import logging
import math
import time
import traceback

import pytest
import torch
from tests.fakes.openai_server import Clock, Fake, Tiny, V, running

from limbeck.data.batch import Batch
from limbeck.errors import Busy, LimbeckError, SettingError, SignalError
from limbeck.teachers.served.client import Client
from limbeck.teachers.served.ledger import FILE, Ledger, Tokens
from limbeck.teachers.served.settings import Limit, Prices, Rate, Served
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.served.writer import Sampling, ServedWriter

LOGITS = frozenset({"logits"})
BATCH = Batch.of({"input_ids": torch.tensor([[3, 14, 15, 9, 26, 5], [2, 7, 1, 8, 28, 18]])})
KEY = "sk-canary-7f3a9c51e2b84d60"


@pytest.fixture
def fake():
    with running(Fake(Tiny())) as one:
        yield one


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


def altered(place, alter):
    """The answer with what it says of the second position altered by ``alter(entries)``."""

    def quirk(number, answer):
        entries = answer["choices"][0]["prompt_logprobs"]
        entries[place] = alter(entries[place])
        return answer

    return quirk


def first(value):
    return lambda entries: {
        name: {**one, "logprob": value} if one["rank"] == 1 else one for name, one in entries.items()
    }


def unranked(entries):
    return {name: {"logprob": one["logprob"]} for name, one in entries.items()}


def within(change):
    return lambda number, answer: {**answer, "choices": [{**answer["choices"][0], **change}]}


UNSOUND = {
    "NaN": (altered(2, first(math.nan)), "no number"),
    "infinity": (altered(2, first(math.inf)), "above zero"),
    "null": (altered(2, first(None)), "no number"),
    "a text": (altered(2, first("-1.0")), "no number"),
    "true": (altered(2, first(True)), "no number"),
    "beyond any float": (altered(2, first(10**400)), "above zero"),
    "positive": (altered(2, first(0.5)), "above zero"),
    "probabilities": (altered(2, lambda e: {k: {"logprob": -math.exp(v["logprob"])} for k, v in e.items()}), "sum to"),
    "a missing position": (altered(3, lambda entries: None), "nothing at position 3"),
    "an empty position": (altered(3, lambda entries: {}), "nothing at position 3"),
    "texts for ids": (altered(2, lambda e: {f" t{k}": v for k, v in e.items()}), "by their text"),
    "a token outside": (altered(2, lambda e: {**e, "40": {"logprob": -9.0, "rank": 2}}), "another model"),
    "a token twice": (altered(2, lambda e: {**e, **{f"token_id:{k}": v for k, v in e.items()}}), "twice"),
    "one position less": (
        lambda n, a: within({"prompt_logprobs": a["choices"][0]["prompt_logprobs"][:-1]})(n, a),
        "other tokens",
    ),
    "other tokens echoed": (within({"prompt_token_ids": [3, 14, 15, 9, 26, 6]}), "other tokens"),
    "no tokens echoed": (lambda n, a: within({"prompt_token_ids": None})(n, _only(a)), "does not have the token"),
    "no log-probabilities": (within({"prompt_logprobs": None}), "vLLM"),
    "another model": (lambda n, a: {**a, "model": "tiny-2026"}, "answered as 'tiny-2026'"),
    "no model": (lambda n, a: {**a, "model": None}, "answered as 'None'"),
}


def _only(answer):
    """Without the tokens that are not among the likeliest."""
    given = answer["choices"][0]["prompt_logprobs"]
    answer["choices"][0]["prompt_logprobs"] = [
        one and {k: v for k, v in one.items() if v["rank"] <= 5} for one in given
    ]
    return answer


@pytest.mark.parametrize("case", UNSOUND)
@pytest.mark.proof("Q8")
def test_what_is_unsound_is_refused_at_once_and_never_kept(fake, tmp_path, case, tried):
    fake.quirk, words = UNSOUND[case]
    with made(fake, tmp_path) as teacher:
        assert words in said(lambda: teacher.observe(BATCH, LOGITS))
        assert len(fake.asked) == 1
        assert teacher.client.ledger.spent.tokens == fake.billed == 7
        fake.quirk = lambda number, answer: answer
        teacher.observe(BATCH, LOGITS)
        assert len(fake.asked) == 3  # nothing of the first was kept
    tried(bad_answers=1)


@pytest.mark.parametrize("never", [-math.inf, -9999.0, -(10**400)])
def test_what_cannot_be_is_no_class(fake, never):
    fake.quirk = altered(2, first(never))
    with made(fake) as teacher:
        ids = teacher.observe(BATCH, LOGITS)["logits"].ids
    assert (ids[:, 1] >= 0).sum(1).max() <= 5
    assert (ids[:, 1, -1] == -1).any()
    assert (ids[:, 0] >= 0).all()


def test_ids_with_a_prefix_and_plain_numbers_are_read(fake):
    with made(fake) as teacher:
        plain = teacher.observe(BATCH, LOGITS)["logits"]

    def other(number, answer):
        given = answer["choices"][0]["prompt_logprobs"]
        changed = [one and {f"token_id:{k}": v["logprob"] for k, v in one.items()} for one in given]
        return within({"prompt_logprobs": changed})(number, answer)

    fake.quirk = other
    with made(fake) as teacher:
        assert torch.equal(plain.ids, teacher.observe(BATCH, LOGITS)["logits"].ids)


def test_fewer_than_were_asked_are_said_once_or_refused(fake, caplog, tmp_path):
    def capped(number, answer):
        given = answer["choices"][0]["prompt_logprobs"]
        return within({"prompt_logprobs": [one and {k: v for k, v in one.items() if v["rank"] <= 3} for one in given]})(
            number, answer
        )

    fake.quirk = capped
    with caplog.at_level(logging.WARNING), made(fake) as teacher:
        shown = teacher.observe(BATCH, LOGITS)["logits"]
        teacher.observe(BATCH, LOGITS)
    assert (shown.ids[:, :-1, :3] >= 0).all()
    assert (shown.ids[..., 3:] == -1).all()
    assert caplog.text.count("asked for 5 log-probabilities and gave 3") == 1
    with made(fake, tmp_path, least=4) as teacher:
        assert "gave 3 log-probabilities at some position, and 'least' is 4" in said(
            lambda: teacher.observe(BATCH, LOGITS)
        )
    with made(fake, tmp_path) as teacher:  # kept by one who takes fewer
        teacher.observe(BATCH, LOGITS)
    with made(fake, tmp_path, least=4) as teacher:
        assert "'least' is 4" in said(lambda: teacher.observe(BATCH, LOGITS))


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


def test_a_model_that_is_swapped_under_way_is_noticed(fake, tmp_path):
    fake.quirk = lambda number, answer: {**answer, "model": "tiny" if number < 2 else "small"}
    with made(fake, tmp_path) as teacher:
        assert "asked for the model 'tiny' and answered as 'small'" in said(lambda: teacher.observe(BATCH, LOGITS))
    fake.quirk, fake.root = (lambda number, answer: answer), "/models/new"
    with made(fake, tmp_path) as teacher:
        teacher.observe(BATCH, LOGITS)
    assert len(fake.asked) == 4  # the kept answer was the old model's


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ({"data": [{"id": "tinny"}]}, "did you mean 'tinny'?"),
        ({"data": []}, "it has: none"),
        ({"object": "list"}, "no list of models"),
        ({"data": ["tiny"]}, "no list of models"),
        ((401, {}, {"error": "key"}), "refuses the key"),
        ((200, {}, b"<html>"), "no JSON object"),
        ({"data": [{"id": "tiny", "max_model_len": "long"}]}, "max_model_len"),
    ],
)
def test_a_server_that_does_not_know_the_model_is_told_before_anything_is_asked(fake, listed, words):
    fake.models = lambda answer: listed
    assert words in said(lambda: made(fake))
    assert not fake.asked


def test_nobody_is_there(fake):
    assert "no answer in 2 tries" in said(lambda: made(fake, url="http://127.0.0.1:9/v1", retries=1))


def test_texts_that_cannot_be_read_are_not_sent(fake):
    with made(fake) as teacher:
        long = Batch.of({"input_ids": torch.ones(2, 64, dtype=torch.int64)}, ids=torch.tensor([7, 8]))
        assert "Row 7 has 64 tokens, and the served model reads 64" in said(
            lambda: teacher.observe(long, LOGITS), SignalError
        )
        for token in (-1, V):
            outside = Batch.of({"input_ids": torch.tensor([[1, token, 2]])})
            assert "outside 0 to 39" in said(lambda batch=outside: teacher.observe(batch, LOGITS), SignalError)
        assert "not 'hidden.1'" in said(lambda: teacher.observe(BATCH, LOGITS | {"hidden.1"}), SignalError)
        assert "input_ids" in said(lambda: teacher.observe(Batch.of(torch.ones(2, 3)), LOGITS), SignalError)
    assert not fake.asked


def test_a_writer_whose_server_gives_fewer_texts_or_none(fake):
    with made(fake, kind=ServedWriter, what=Sampling(samples=2, max_tokens=4)) as writer:
        fake.quirk = lambda number, answer: {**answer, "choices": answer["choices"][:1]}
        assert "1 of the 2 texts" in said(lambda: writer.write(["a"]))
        for broken in ([], [{}], [{"message": None, "finish_reason": "stop"}], [3]):
            fake.quirk = lambda number, answer, broken=broken: {**answer, "choices": broken}
            assert "no answer in 3 tries" in said(lambda: writer.write(["a"]))
    assert "said in a chat" in said(lambda: made(fake, kind=ServedWriter, what=Sampling(by="completions", system="s")))


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
    with made(fake, tmp_path, ServedWriter, Sampling(max_tokens=9), key_from="MY_KEY") as writer:
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
