"""A served teacher is the local one, seen through its likeliest tokens; it is asked once, within its limits."""

import multiprocessing
import os
import signal
import threading
import time
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.openai_server import Clock, Fake, Tiny, V, running
from tests.fakes.served_writers import writing

from limbeck.data.batch import REAL, Batch
from limbeck.errors import LimbeckError
from limbeck.signals.logits import Offer
from limbeck.teachers.served.answers import Answers
from limbeck.teachers.served.client import Client
from limbeck.teachers.served.ledger import FILE, Cost, Ledger, Tokens
from limbeck.teachers.served.pace import MINUTE, Pace
from limbeck.teachers.served.reading import Row
from limbeck.teachers.served.settings import Limit, Prices, Rate, Served
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.served.writer import Sampling
from limbeck.teachers.teacher import Teacher

LOGITS = frozenset({"logits"})
PRICES = Prices(input=2.0, output=10.0)


@pytest.fixture
def fake():
    with running(Fake(Tiny())) as one:
        yield one


def settings_of(fake, **more):
    return Served(**{"url": fake.url, "model": "tiny", "top": 5, "timeout": 20.0} | more)


def texts(rows, seed=0, side="right", longest=9):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (rows,), generator=draw)
    places = torch.arange(longest)
    mask = places < lengths[:, None] if side == "right" else places >= longest - lengths[:, None]
    ids = torch.randint(0, V, (rows, longest), generator=draw) * mask
    return Batch.of({"input_ids": ids, "attention_mask": mask.long()})


def expected(batch, row, top=5):
    """(ids, log-probabilities, n) of one text without its padding: from the model's logits, in NumPy and float64.

    The token that comes next is among them: in the last one's place, where it is none of the likeliest.
    """
    own = batch.inputs["attention_mask"][row].bool()
    ids = batch.inputs["input_ids"][row][own]
    logits = Tiny()(ids[None])[0].detach().numpy().astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    order = np.argsort(-logs, 1)[:, :top]
    for place, following in enumerate(ids[1:].tolist()):
        if following not in order[place]:
            order[place, -1] = following
    return order, np.take_along_axis(logs, order, 1), np.flatnonzero(own.numpy())


@pytest.mark.parametrize("side", ["right", "left"])
def test_it_shows_the_likeliest_of_the_local_models_logits(fake, side):
    batch = texts(12, side=side)
    with ServedTeacher(settings_of(fake), V) as teacher:
        shown = teacher.observe(batch, LOGITS)["logits"]
    assert (shown.classes, shown.rows, shown.ids.shape[-1]) == (V, batch.inputs["input_ids"].shape, 5)
    for row in range(len(batch)):
        ids, logs, places = expected(batch, row)
        inner = places[:-1]
        np.testing.assert_array_equal(shown.ids[row, inner], ids[:-1])
        # float32 of numbers below 8 in size: half of the last place is 2.4e-7
        np.testing.assert_allclose(shown.log_probabilities[row, inner], logs[:-1], rtol=0, atol=1e-6)
        others = np.setdiff1d(np.arange(shown.ids.shape[1]), inner)
        assert (shown.ids[row, others] == -1).all()


def test_the_next_token_is_there_even_where_the_server_gives_fewer_than_were_asked(fake):
    batch = texts(12, seed=1)
    with running(Fake(Tiny())) as capped:
        capped.quirk = lambda number, answer: _capped(answer, 3)
        with ServedTeacher(settings_of(capped), V) as teacher:
            shown = teacher.observe(batch, LOGITS)["logits"]
    beside = 0
    for row in range(len(batch)):
        ids, _, places = expected(batch, row)
        for at, place in enumerate(places[:-1]):
            found = shown.ids[row, place]
            own = int(batch.inputs["input_ids"][row, place + 1])
            np.testing.assert_array_equal(found[:3], ids[at, :3])
            assert (found[4:] == -1).all()
            assert found[3] == (-1 if own in ids[at, :3] else own)  # not just any fourth: the text's own
            beside += own not in ids[at, :3]
    assert beside > 20


def _capped(answer, top):
    """As a server that gives no more than ``top``, and the token of the text."""
    for place, given_ in enumerate(answer["choices"][0]["prompt_logprobs"]):
        if given_:
            own = str(answer["choices"][0]["prompt_token_ids"][place])
            given_ = {name: one for name, one in given_.items() if one["rank"] <= top or name == own}
            answer["choices"][0]["prompt_logprobs"][place] = given_
    return answer


def test_it_is_a_teacher_of_logits_alone(fake):
    with ServedTeacher(settings_of(fake), V) as teacher:
        assert isinstance(teacher, Teacher)
        assert teacher.module is None
        assert (teacher.provides.offers, teacher.provides.classes) == (Offer.OUTCOMES, V)
        assert teacher.provides.lacking({"logits", "hidden.1"}) == {"hidden.1"}


@pytest.mark.proof("Q6")
def test_the_fingerprint_names_the_model_and_not_where_or_when_it_is_served(fake, tried):
    def of(one, classes=V, **more):
        with ServedTeacher(settings_of(one, **more), classes) as teacher:
            return teacher.fingerprint

    first = of(fake)
    with running(Fake(Tiny())) as elsewhere, running(Fake(Tiny(), root="/models/other")) as other:
        assert of(elsewhere, concurrency=2, timeout=3.0, prices=PRICES, rate=Rate(requests=9)) == first
        others = [of(other), of(fake, revision="b"), of(fake, top=4), of(fake, classes=V + 1)]
    assert len({first, *others}) == 5
    tried(changes_of_what_labels_depend_on=len(others))


def test_texts_that_are_alike_and_answers_that_are_kept_are_not_asked_again(fake, tmp_path):
    batch = texts(6)
    twice = batch.select(torch.tensor([0, 1, 2, 3, 4, 5, 0, 3]))
    with ServedTeacher(settings_of(fake), V, tmp_path) as teacher:
        first = teacher.observe(twice, LOGITS)["logits"]
    assert len(fake.asked) == 6
    with ServedTeacher(settings_of(fake), V, tmp_path) as teacher:
        again = teacher.observe(batch, LOGITS)["logits"]
        assert torch.equal(first.ids[:6], again.ids)
        assert torch.equal(first.log_probabilities[:6], again.log_probabilities)
        assert torch.equal(first.ids[6:], first.ids[[0, 3]])
        assert len(fake.asked) == 6
        assert teacher.client.ledger.spent.tokens == fake.billed
    with ServedTeacher(settings_of(fake, revision="b"), V, tmp_path) as teacher:
        teacher.observe(batch, LOGITS)
    assert len(fake.asked) == 12


def test_padding_rows_and_single_tokens_are_not_asked(fake):
    batch = texts(4)
    batch = Batch(
        batch.inputs, batch.labels, {**batch.masks, REAL: torch.tensor([1, 0, 1, 0]).bool()}, batch.ids, batch.views
    )
    one = Batch.of({"input_ids": torch.tensor([[3, 0]]), "attention_mask": torch.tensor([[1, 0]])})
    with ServedTeacher(settings_of(fake), V) as teacher:
        shown = teacher.observe(batch, LOGITS)["logits"]
        assert (teacher.observe(one, LOGITS)["logits"].ids == -1).all()
    assert len(fake.asked) == 2
    assert (shown.ids[[1, 3]] == -1).all()
    assert (shown.ids[[0, 2], 0] >= 0).all()


def _labels(url, folder, batch):
    with ServedTeacher(Served(url=url, model="tiny", top=5, concurrency=1), V, folder) as teacher:
        teacher.observe(batch, LOGITS)


@pytest.mark.proof("Q5")
def test_a_kill_half_way_loses_no_answer_and_its_last_request_counts(fake, tmp_path, tried):
    batch, reached = texts(12), threading.Event()

    def stalls(number, answer):
        if number > 6:
            reached.set()
            time.sleep(1.5)
        return answer

    fake.quirk = stalls
    child = multiprocessing.get_context("fork").Process(target=_labels, args=(fake.url, tmp_path, batch))
    child.start()
    assert reached.wait(20)  # the seventh is sent once the sixth is kept
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    before, fake.quirk = [tuple(body["prompt"]) for body in fake.asked], lambda number, answer: answer
    assert len(before) == 7
    with ServedTeacher(settings_of(fake), V, tmp_path) as teacher:
        teacher.observe(batch, LOGITS)
        asked = [tuple(body["prompt"]) for body in fake.asked]
        assert not set(asked[7:]) & set(before[:6])
        assert len(asked) == 13
        assert len(set(asked)) == 12
        assert teacher.client.ledger.spent.tokens == fake.billed
    tried(kills_of_paid_labelling=1)


@given(st.lists(st.lists(st.integers(0, 30), min_size=2, max_size=6), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_packed_rows_come_back(rows):
    for ids in rows:
        row = Row(np.array([ids], np.int32) - 1, -np.array([ids], np.float32) / 3)
        back = Row.unpacked(row.packed())
        assert np.array_equal(back.ids, row.ids)
        assert np.array_equal(back.logs, row.logs)


def test_a_damaged_answer_is_asked_again(tmp_path, caplog):
    answers = Answers(tmp_path)
    answers.keep("a", b"what was paid for")
    assert answers.find("a") == b"what was paid for"
    answers._base.execute("UPDATE answers SET value = ?", (b"what was paid fur",))
    assert answers.find("a") is None
    assert "damaged" in caplog.text
    answers.close()


# What is spent


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_64_at_once_never_pass_the_limit(seed):
    draw = Random(seed)
    jobs = [(draw.randint(1, 40), draw.random(), draw.random()) for _ in range(64)]
    ledger, refused, seen = Ledger(None, Limit(tokens=700, money=0.004), PRICES), [], []

    def job(size, share, nap):
        try:
            number = ledger.reserve(Tokens(size, 5))
        except LimbeckError as error:
            refused.append(error)
            return
        seen.append(ledger.spent + ledger.reserved)
        time.sleep(nap / 2000)
        ledger.settle(number, Tokens(int(size * share), 2))

    threads = [threading.Thread(target=job, args=one) for one in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(one.tokens <= 700 and one.money <= 0.004 for one in [*seen, ledger.spent])
    assert ledger.reserved == Cost()
    assert len(refused) + len(seen) == 64
    # nobody is refused while a settlement may leave room: what is left is less than the largest worst case
    assert not refused or ledger.spent.money > 0.004 - (40 * 2 + 50) / 1e6 or ledger.spent.tokens > 700 - 45


def test_spending_is_counted_over_runs_and_what_was_under_way_counts_at_its_worst(tmp_path):
    with Ledger(tmp_path, Limit(tokens=100), PRICES) as ledger:
        ledger.settle(ledger.reserve(Tokens(30, 10)), Tokens(30, 1))
        ledger.reserve(Tokens(20, 5))  # killed
    with Ledger(tmp_path, Limit(tokens=100), PRICES) as ledger:
        assert ledger.spent == Cost(pytest.approx((50 * 2 + 6 * 10) / 1e6), 56)
        with pytest.raises(LimbeckError, match="56 of 100 tokens, the next at most 45"):
            ledger.reserve(Tokens(40, 5))
        ledger.settle(ledger.reserve(Tokens(39, 5)), Tokens(39, 5))
        with pytest.raises(LimbeckError, match="100 of 100"):
            ledger.reserve(Tokens(1, 0))
        assert ledger.reserve(Tokens()) is not None  # what is free is never refused


@pytest.mark.proof("Q9")
def test_a_reservation_is_on_the_disk_before_anything_is_sent(fake, tmp_path, tried):
    lines = []
    fake.quirk = lambda number, answer: lines.append((tmp_path / FILE).read_text().splitlines()[-1]) or answer
    with ServedTeacher(settings_of(fake, concurrency=1), V, tmp_path) as teacher:
        teacher.observe(texts(3), LOGITS)
    assert len(lines) == 3
    assert all('"reserve"' in line for line in lines)
    tried(capped_requests=len(lines))


@pytest.mark.parametrize("cut", [1, 10, 25])
def test_a_line_that_a_kill_cut_is_dropped(tmp_path, cut):
    with Ledger(tmp_path, Limit()) as ledger:
        ledger.settle(ledger.reserve(Tokens(3)), Tokens(3))
        ledger.reserve(Tokens(7))
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:-cut])
    with Ledger(tmp_path, Limit()) as ledger:
        assert ledger.spent.tokens == 3
        ledger.reserve(Tokens(2))
    with Ledger(tmp_path, Limit()) as ledger:
        assert ledger.spent.tokens == 5


@pytest.mark.proof("Q9")
def test_with_failures_and_64_at_once_the_server_never_works_for_more_than_the_limit(fake, tried):
    def fails(number, answer):
        return (
            (500, {}, {"error": "busy"}) if number % 3 == 0 else (lambda handler: None) if number % 7 == 0 else answer
        )

    fake.quirk, clock = fails, Clock()
    served = settings_of(fake, concurrency=64, limit=Limit(tokens=400), retries=20)
    client = Client(served, Ledger(None, served.limit), clock=clock, sleep=clock.sleep)
    with ServedTeacher(served, V, client=client) as teacher, pytest.raises(LimbeckError, match="might pass the limit"):
        teacher.observe(texts(100), LOGITS)
    free = sum(len(fake.asked[n - 1]["prompt"]) + 1 for n in range(1, len(fake.asked) + 1) if n % 3 == 0)
    assert 300 < fake.billed - free <= client.ledger.spent.tokens <= 400
    tried(capped_requests=len(fake.asked))


# How fast it is asked


@given(
    st.integers(1, 4),
    st.integers(10, 30),
    st.lists(st.tuples(st.integers(1, 10), st.integers(0, 25)), min_size=1, max_size=20),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_minute_has_more_than_its_rate(requests, tokens, asked):
    clock, sent = Clock(), []
    pace = Pace(Rate(requests=requests, tokens=tokens), clock, clock.sleep)
    for size, pause in asked:
        clock.now += pause
        before = clock.now
        pace.wait(size)
        held = [one for then, one in sent if then + MINUTE > before]
        if len(held) < requests and sum(held) + size <= tokens:
            assert clock.now == before  # nobody waits without need
        sent.append((clock.now, size))
        recent = [one for then, one in sent if then + MINUTE > clock.now]
        assert len(recent) <= requests
        assert sum(recent) <= tokens


def answered_at_last(fake, quirk, **more):
    """The naps of a client whose request is answered in the end."""
    fake.quirk, clock = quirk, Clock()
    served = settings_of(fake, **more)
    client = Client(served, Ledger(None, served.limit), clock=clock, sleep=clock.sleep)
    with ServedTeacher(served, V, client=client) as teacher:
        assert (teacher.observe(texts(1), LOGITS)["logits"].ids[:, 0] >= 0).all()
    return clock.naps


def test_pauses_grow_are_jittered_and_the_same_for_a_seed(fake):
    naps = [
        answered_at_last(fake, lambda number, answer: answer if number % 5 == 0 else (503, {}, b"")) for _ in range(2)
    ]
    assert naps[0] == naps[1]
    assert len(naps[0]) == 4
    for attempt, nap in enumerate(naps[0]):
        assert 0.25 * 2**attempt <= nap <= 0.5 * 2**attempt
    assert len({nap / 2**attempt for attempt, nap in enumerate(naps[0])}) == 4


def test_a_server_that_says_how_long_is_left_alone_for_so_long(fake):
    def busy(number, answer):
        return answer if number == 3 else (429, {"Retry-After": "17"}, {"error": {"message": "slow down"}})

    assert answered_at_last(fake, busy) == [17, 17]
    fake.asked.clear()
    later = {"Retry-After": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 40))}
    (nap,) = answered_at_last(fake, lambda number, answer: answer if number == 2 else (503, later, b""))
    assert 30 < nap <= 40


# What it writes


def test_texts_are_marked_where_they_were_cut_or_withheld(fake, tmp_path):
    def withheld(number, answer):
        for choice in answer["choices"]:
            if "secret0" in choice["message"]["content"]:
                choice["message"]["content"], choice["finish_reason"] = None, "content_filter"
        return answer

    fake.quirk = withheld
    sampling = Sampling(samples=2, max_tokens=3, system="be brief", temperature=0.7, seed=5)
    for _ in range(2):
        with writing(settings_of(fake), sampling, tmp_path) as writer:
            short, long, again, filtered = writer.write(["a b", "a b c d", "a b", "a secret"])
    assert short == again
    assert [(one.text, one.finish, one.whole) for one in short] == [("a0 b0", "stop", True), ("a1 b1", "stop", True)]
    assert [(one.text, one.finish, one.whole) for one in long] == [
        ("a0 b0 c0", "length", False),
        ("a1 b1 c1", "length", False),
    ]
    assert [(one.text, one.finish, one.whole) for one in filtered] == [
        ("", "content_filter", False),
        ("a1 secret1", "stop", True),
    ]
    assert len(fake.asked) == 3
    body = fake.asked[0]
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert (body["n"], body["max_tokens"], body["temperature"], body["seed"]) == (2, 3, 0.7, 5)


def test_completions_are_written_without_a_template(fake):
    with writing(settings_of(fake), Sampling(by="completions", max_tokens=9)) as writer:
        assert [[one.text for one in row] for row in writer.write(["x y", "z"])] == [["x0 y0"], ["z0"]]
    assert fake.asked[0].keys() >= {"prompt"}


def test_a_text_costs_at_most_what_was_reserved_for_it(fake):
    served = settings_of(fake, limit=Limit(tokens=600), concurrency=4)
    sampling = Sampling(samples=2, max_tokens=10)
    with writing(served, sampling) as writer, pytest.raises(LimbeckError, match="might pass the limit"):
        writer.write([f"tell of {number} ä 漢字" for number in range(40)])
    assert 0 < fake.billed <= 600
