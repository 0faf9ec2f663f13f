"""What is paid for: nothing twice however often labelling is killed, and never more than the limit whatever fails."""

import multiprocessing
import random
import shutil
import signal
import threading
import time

import pytest
import torch
from tests.fakes.openai_server import Fake, Tiny, V, running

from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.teachers.served.answers import Answers
from limbeck.teachers.served.client import Client
from limbeck.teachers.served.ledger import Ledger
from limbeck.teachers.served.settings import Limit, Prices, Served
from limbeck.teachers.served.teacher import ServedTeacher

FORK = multiprocessing.get_context("fork")
LOGITS = frozenset({"logits"})
AT_ONCE = 4


def texts(rows, seed=0, longest=9):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (rows, 1), generator=draw)
    ids = torch.randint(0, V, (rows, longest), generator=draw)
    ids[:, 0], ids[:, 1] = torch.arange(rows) // V % V, torch.arange(rows) % V  # all different
    mask = torch.arange(longest) < lengths
    return Batch.of({"input_ids": ids * mask, "attention_mask": mask.long()})


def prompts(batch):
    return [
        tuple(ids[mask.bool()].tolist())
        for ids, mask in zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
    ]


# --- Q5


def labels(url, folder, batch):
    torch.set_num_threads(1)
    with ServedTeacher(Served(url=url, model="tiny", top=5, concurrency=AT_ONCE), V, folder) as teacher:
        teacher.observe(batch, LOGITS)


def killed(tmp_path, kills, rows, tried):
    draw, batch, done, folder = random.Random(0), texts(rows), 0, tmp_path / "served"
    every = prompts(batch)
    with running(Fake(Tiny())) as fake:
        with ServedTeacher(Served(url=fake.url, model="tiny", top=5), V) as teacher:
            keys = {prompt: teacher._key(prompt) for prompt in every}

        def kept():
            answers = Answers(folder)
            found = {prompt for prompt in every if answers.find(keys[prompt]) is not None}
            answers.close()
            return found

        def asked():
            return [tuple(body["prompt"]) for body in fake.asked]

        before, paid, since, again = set(), 0, 0, 0
        while done < kills:
            if len(before) == rows:  # all are kept before there were enough kills: once more from the start
                assert len(fake.asked) <= rows + AT_ONCE * since
                shutil.rmtree(folder)
                fake.asked.clear()
                before, paid, since = set(), 0, 0
            child = FORK.Process(target=labels, args=(fake.url, folder, batch))
            child.start()
            child.join(draw.uniform(0.03, 0.4))
            child.kill()  # unless it has ended by itself
            child.join()
            time.sleep(0.02)  # the server has the last requests in hand
            killed_here = child.exitcode == -signal.SIGKILL
            done, since = done + killed_here, since + killed_here
            after = kept()
            assert before <= after, "an answer that was kept is lost"
            assert not before & set(asked()[paid:]), "an answer that was kept was paid for again"
            assert len(fake.asked) - paid - len(after - before) <= AT_ONCE, "more was lost than what was in flight"
            again += len(fake.asked) - paid - len(after - before)
            before, paid = after, len(fake.asked)
        with ServedTeacher(Served(url=fake.url, model="tiny", top=5), V, folder) as teacher:
            teacher.observe(batch, LOGITS)
            assert not before & set(asked()[paid:])
            assert kept() == set(every)
            assert len(fake.asked) <= rows + AT_ONCE * since
            assert teacher.client.ledger.spent.tokens >= fake.billed * (
                since == done
            )  # of a folder that was never removed
    tried(kills_of_paid_labelling=kills, paid_again_as_in_flight=again)


@pytest.mark.proof("Q5")
def test_no_kept_answer_is_paid_for_twice(tmp_path, tried):
    killed(tmp_path, 4, 300, tried)


@pytest.mark.faults
@pytest.mark.proof("Q5")
def test_no_kept_answer_is_paid_for_twice_in_50_kills(tmp_path, tried):
    killed(tmp_path, 50, 1500, tried)


# --- Q9

PRICES = Prices(input=2.0, output=10.0)
MANY = 64


class Paid(Fake):
    """Fails often, and counts what it would charge: for all that it works for, told of or not. ``most``: requests at once."""

    def __init__(self, seed):
        super().__init__(Tiny())
        self.draw, self.tokens, self.money, self.under_way, self.most, self._sum = (
            random.Random(seed),
            0,
            0.0,
            0,
            0,
            threading.Lock(),
        )
        self.failures = 0
        self.crowded = threading.Event()
        self.quirk = self._fails

    def _fails(self, number, answer):
        with self._sum:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            if self.most >= MANY // 2:
                self.crowded.set()
            fate, free = self.draw.random(), False
            if fate < 0.15:
                sent, free = (500, {}, {"error": "busy"}), True
            elif fate < 0.25:
                sent, free = (429, {"Retry-After": "0"}, {"error": "slow down"}), True
            elif fate < 0.35:
                sent = lambda handler: None  # worked for, and the connection is gone  # noqa: E731
            elif fate < 0.4:
                sent = {**answer, "choices": []}
            else:
                sent = answer
            self.failures += sent is not answer
            if not free:
                read, written = answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]
                self.tokens += read + written
                self.money += (read * PRICES.input + written * PRICES.output) / 1e6
        self.crowded.wait(60)  # the first ones until many are under way, however slow the machine
        time.sleep(0.1)
        with self._sum:
            self.under_way -= 1
        return sent


def capped(folder, seed, limit, tried):
    """Labels until the limit stops it, twice over the same folder."""
    with running(Paid(seed)) as fake:
        for _ in range(2):
            served = Served(url=fake.url, model="tiny", top=5, concurrency=MANY, limit=limit, prices=PRICES, retries=20)
            with Ledger(folder, served.limit, PRICES) as ledger:
                client = Client(served, ledger, sleep=lambda seconds: time.sleep(0.001))
                stops = pytest.raises(LimbeckError, match="might pass the limit")
                with ServedTeacher(served, V, folder, client=client) as teacher, stops:
                    teacher.observe(texts(600, seed), LOGITS)
                spent = ledger.spent
            if limit.tokens is not None:
                assert limit.tokens - 11 < spent.tokens
                assert fake.tokens <= spent.tokens <= limit.tokens
            if limit.money is not None:
                assert limit.money - 40e-6 < spent.money
                assert fake.money <= spent.money + 1e-12 <= limit.money + 2e-12
        assert fake.most >= MANY // 2
        tried(capped_requests=len(fake.asked), failures=fake.failures)


@pytest.mark.proof("Q9")
@pytest.mark.parametrize("limit", [Limit(tokens=1500), Limit(money=0.004)], ids=["tokens", "money"])
def test_64_requests_at_once_with_failures_stay_below_the_limit(tmp_path, limit, tried):
    capped(tmp_path, 0, limit, tried)


@pytest.mark.faults
@pytest.mark.proof("Q9")
@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("limit", [Limit(tokens=2000), Limit(money=0.005)], ids=["tokens", "money"])
def test_64_requests_at_once_with_many_failures_stay_below_the_limit(tmp_path, limit, seed, tried):
    capped(tmp_path, seed, limit, tried)
