"""A server whose answers are unsound: nothing of them is used or kept, and what is said helps."""

import logging
import math

import pytest
import torch
from tests.fakes.openai_server import Fake, Tiny, V, running
from tests.fakes.served_writers import writing
from tests.fakes.server_clients import BATCH, LOGITS, made, said

from limbeck.data.batch import Batch
from limbeck.errors import SignalError
from limbeck.teachers.served.writer import Sampling


@pytest.fixture
def fake():
    with running(Fake(Tiny())) as one:
        yield one


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
    "logits above zero": (altered(2, first(3.7)), "--logprobs-mode"),
    "logits below zero": (
        altered(2, lambda e: {k: {**v, "logprob": v["logprob"] - 30} for k, v in e.items()}),
        "too small for the likeliest",
    ),
    "positive": (altered(2, first(0.5)), "above zero"),
    "probabilities": (altered(2, lambda e: {k: {"logprob": -math.exp(v["logprob"])} for k, v in e.items()}), "sum to"),
    "a missing position": (altered(3, lambda entries: None), "nothing at position 3"),
    "an empty position": (altered(3, lambda entries: {}), "nothing at position 3"),
    "texts for ids": (altered(2, lambda e: {f" t{k}": v for k, v in e.items()}), "by their text"),
    "a token outside": (altered(2, lambda e: {**e, "40": {"logprob": -9.0, "rank": 2}}), "another model"),
    "a token outside with a text": (
        altered(2, lambda e: {**e, "40": {"logprob": -9.0, "rank": 2, "decoded_token": "x"}}),
        "another model",
    ),
    "a token far outside": (
        altered(2, lambda e: {**e, "9000": {"logprob": -9.0, "rank": 2, "decoded_token": ""}}),
        "another model",
    ),
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


def test_what_pads_a_vocabulary_belongs_to_the_rest(fake, caplog):
    """Models have rows for tokens that no text has, and a server lists them as it does others, without a text."""
    with made(fake) as teacher:
        plain = teacher.observe(BATCH, LOGITS)["logits"]

    def padded(entries):
        second = next(name for name, one in entries.items() if one["rank"] == 2)
        return {("41" if name == second else name): one | {"decoded_token": ""} for name, one in entries.items()}

    fake.quirk = lambda number, answer: [altered(place, padded)(number, answer) for place in (1, 2)][-1]
    with caplog.at_level(logging.WARNING), made(fake, least=5) as teacher:
        shown = teacher.observe(BATCH, LOGITS)["logits"]
    assert (shown.ids[:, :2, 1] == -1).all()
    kept = [0, 2, 3]
    assert torch.equal(shown.ids[:, :2, kept], plain.ids[:, :2, kept])
    assert "asked for" not in caplog.text, "none was missing"
    outcomes = shown.at(torch.tensor([0])).outcomes(0, 1)
    torch.testing.assert_close(outcomes.p.sum(), torch.tensor(1.0))


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
    with made(fake, kind=writing, what=Sampling(samples=2, max_tokens=4)) as writer:
        fake.quirk = lambda number, answer: {**answer, "choices": answer["choices"][:1]}
        assert "1 of the 2 texts" in said(lambda: writer.write(["a"]))
        for broken in ([], [{}], [{"message": None, "finish_reason": "stop"}], [3]):
            fake.quirk = lambda number, answer, broken=broken: {**answer, "choices": broken}
            assert "no answer in 3 tries" in said(lambda: writer.write(["a"]))
    assert "said in a chat" in said(lambda: made(fake, kind=writing, what=Sampling(by="completions", system="s")))
