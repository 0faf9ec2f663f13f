"""Stored logits are the teacher's: to the bit, but for what a codec leaves out, whoever writes and whatever is batched."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tests.fakes.coded import DATA, WIDTHS, Talking, logits_of, rows_of
from tests.fakes.rows import LOGITS, batch_of, local, padded

from limbeck.data.batch import TOKENS
from limbeck.losses.divergences import ForwardKl, ReverseKl, dense
from limbeck.objective.evaluate import Asked, streamed
from limbeck.signals.logits import Chunked, Dense, Head, Offer
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.teachers.store import describe
from limbeck.teachers.store.codecs import CodecField, FullCodec, HiddenCodec, SampledCodec, TopKCodec, codec_of
from limbeck.teachers.stored import StoredTeacher

CODECS = (
    TopKCodec(k=5),
    TopKCodec(k=5, dtype="float32"),
    SampledCodec(draws=9),
    SampledCodec(draws=9, entropy=False),
    SampledCodec(draws=9, log_probabilities=True),
)
FIELDS = ("ids", "log_probabilities", "counts", "entropy", "hidden")


def same(one, other, at=...) -> bool:
    """Whether two storages say the same at these places; of unequal width what one has more must be empty."""

    def parts(storage):
        found = {name: getattr(storage, name, None) for name in FIELDS}
        return {name: value[at] for name, value in found.items() if value is not None}

    ours, theirs = parts(one), parts(other)
    assert ours.keys() == theirs.keys()
    for name, mine in ours.items():
        its = theirs[name]
        if "counts" in ours and name in ("ids", "counts", "log_probabilities"):
            wide = min(mine.shape[-1], its.shape[-1])
            if mine[..., wide:].any() or its[..., wide:].any():
                return False
            mine, its = mine[..., :wide], its[..., :wide]
        if not torch.equal(mine, its):
            return False
    return True


def divergence(kind, student, teacher):
    """Of rows [N], by the objective's own evaluation."""
    count, classes = student.shape
    head = Head(torch.eye(classes))
    return torch.stack(
        [
            streamed(Chunked(student[n : n + 1], head), [Asked(kind, teacher.chunk(n, n + 1), torch.ones(1))])[0]
            for n in range(count)
        ]
    )


@pytest.mark.parametrize("classes", WIDTHS)
def test_ids_and_counts_come_back_exactly(classes):
    logits = logits_of(2, 3, classes, scale=1.0)
    top, k = TopKCodec(k=7).decode(TopKCodec(k=7).encode(Dense(logits), rows_of(2))), min(7, classes)
    assert torch.equal(logits.gather(-1, top.ids), logits.topk(k).values)
    codec = SampledCodec(draws=30, seed=3)
    sampled = codec.decode(codec.encode(Dense(logits), rows_of(2)))
    assert (sampled.counts.sum(-1) == 30).all()
    assert (sampled.classes, top.classes) == (classes, classes)
    for ids, counts in zip(sampled.ids.flatten(0, 1), sampled.counts.flatten(0, 1), strict=True):
        own = ids[counts > 0].tolist()
        assert own == sorted(set(own))
        assert max(own) < classes


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_class_is_the_dense_distribution(dtype):
    logits = logits_of(6, 30)
    codec = TopKCodec(k=30, dtype=dtype)
    top = codec.decode(codec.encode(Dense(logits), rows_of(6)))
    known = torch.zeros(6, 30).scatter_(1, top.ids, top.log_probabilities)
    assert (top.log_probabilities.double().exp().sum(-1) <= 1).all()  # nothing is left, and never less
    # a log-probability in half precision is right to 2^-11 of its size, here up to 20, and once more to scale them
    torch.testing.assert_close(
        known, logits.log_softmax(-1), rtol=1e-3 if dtype == "float16" else 0, atol=2e-6 if dtype == "float32" else 1e-3
    )


@pytest.mark.parametrize("kind", [ForwardKl(), ReverseKl()])
def test_over_some_outcomes_a_divergence_is_at_most_the_whole(kind):
    teacher, student = logits_of(20, 60, seed=1, scale=1.0), logits_of(20, 60, seed=2, scale=1.0)
    whole = dense(kind, student, teacher)
    before = torch.zeros(20)
    for k in (1, 5, 20, 59):
        codec = TopKCodec(k=k, dtype="float32")
        part = divergence(kind, student, codec.decode(codec.encode(Dense(teacher), rows_of(20))))
        assert (part >= -1e-6).all()
        assert (part <= whole + 1e-4).all()
        assert (part >= before - 1e-4).all()
        before = part
    torch.testing.assert_close(before, whole, rtol=1e-3, atol=1e-3)  # 59 and the rest are all 60
    halved = TopKCodec(k=20)
    rounded = divergence(kind, student, halved.decode(halved.encode(Dense(teacher), rows_of(20))))
    assert ((rounded >= 0) & (rounded <= whole * 1.01 + 1e-3)).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_rest_of_almost_nothing_is_no_penalty(dtype):
    """A teacher that is sure: 1 less a sum of float32 would be 0, and a student that is not would pay 87 nats for its rest."""
    teacher, student = logits_of(8, 200, scale=1.0), logits_of(8, 200, seed=1, scale=1.0)
    teacher[:, :5] += torch.linspace(18, 40, 8)[:, None]
    codec = TopKCodec(k=5, dtype=dtype)
    shown = codec.decode(codec.encode(Dense(teacher), rows_of(8)))
    for kind in (ForwardKl(), ReverseKl()):
        part, whole = divergence(kind, student, shown), dense(kind, student, teacher)
        assert ((part >= 0) & (part <= whole * 1.01)).all()


@pytest.mark.parametrize("codec", CODECS)
def test_a_row_says_the_same_in_any_batch_and_padding(codec):
    logits, rows = logits_of(4, 6, 100), rows_of(4)
    counted = torch.arange(6) < torch.tensor([6, 3, 1, 0])[:, None]
    whole = codec.decode(codec.encode(Dense(logits), replace(rows, counted=counted)), counted)
    order = [2, 0, 3, 1]
    wide = torch.nn.functional.pad(logits[order], (0, 0, 0, 5), value=torch.nan)
    more = torch.nn.functional.pad(counted[order], (0, 5))
    moved = replace(rows, ids=rows.ids[order], views=rows.views[order], counted=more)
    again = codec.decode(codec.encode(Dense(wide), moved), more)
    assert again.rows == (4, 11)
    places = torch.arange(44).view(4, 11)[torch.argsort(torch.tensor(order)), :6].flatten()
    assert same(whole.at(torch.arange(24)), again.at(places))
    assert torch.equal(codec.encode(Dense(logits[:2]), rows_of(2)), codec.encode(Dense(logits[:2]), rows_of(2)))


def test_draws_differ_by_seed_id_view_and_position():
    logits = logits_of(1, 1, 5000, scale=0.1).expand(2, 2, -1)

    def drawn(rows, seed=0):
        found = SampledCodec(draws=20, seed=seed).encode(Dense(logits), rows)
        return [tuple(row) for row in SampledCodec(draws=20).decode(found).ids.flatten(0, 1).tolist()]

    every = drawn(rows_of(2)) + drawn(rows_of(2, view=1)) + drawn(rows_of(2), seed=1)
    assert len(set(every)) == 12


@pytest.mark.parametrize("codec", CODECS)
def test_tokens_that_do_not_count_cost_a_bit(codec):
    counted = torch.zeros(2, 800, dtype=torch.bool)
    counted[:, [3, 799]] = True
    logits = torch.full((2, 800, 50), torch.nan)
    sure = logits_of(4, 50)
    sure[:, 7] += 100  # draws at other positions are others, and here of as many classes
    logits[counted] = sure
    rows = codec.encode(Dense(logits), rows_of(2, counted))
    few = codec.encode(Dense(logits[:, [3, 799]]), rows_of(2, counted[:, [3, 799]]))
    assert rows.shape[1] <= few.shape[1] + 800 // 8
    shown = codec.decode(rows, counted)
    assert shown.rows == (2, 800)
    kept = getattr(shown, "counts", shown.ids + 1)
    assert not kept[~counted].any()
    assert kept[counted].any(-1).all()


def test_hidden_rows_are_encoded_a_block_at_a_time(monkeypatch):
    head, made = (
        Head(logits_of(400, 8, seed=2).round(), bias=logits_of(400).round()),
        [],
    )  # whole numbers: exact in any order
    original = Head.__call__
    monkeypatch.setattr(
        Head, "__call__", lambda self, hidden, room=None: made.append(len(hidden)) or original(self, hidden, room)
    )
    monkeypatch.setattr("limbeck.teachers.store.vocabulary._CHUNK", 4 * 400)
    hidden = logits_of(3, 7, 8).round()
    for codec in CODECS:
        rows = codec.encode(Chunked(hidden, head), rows_of(3))
        assert max(made) <= 4
        assert same(codec.decode(rows), codec.decode(codec.encode(Dense(original(head, hidden)), rows_of(3))))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_hidden_states_come_back(dtype):
    head = Head(logits_of(30, 8, seed=1), softcap=20.0)
    hidden = logits_of(3, 5, 8, scale=1.0).to(getattr(torch, dtype))
    codec = HiddenCodec(dtype=dtype).made(head)
    counted = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]
    shown = codec.decode(codec.encode(Chunked(hidden, head), rows_of(3, counted)), counted)
    assert shown.head is head
    assert torch.equal(shown.hidden, hidden * counted[..., None])


def test_the_label_is_always_known():
    logits, labels = logits_of(3, 4, 200), torch.tensor([[0, 1, 2, 3], [-100, 199, 5, 6], [7, 8, -1, 500]])
    labels[0, 0], labels[0, 1] = logits[0, 0].argmax(), logits[0, 1].argmin()
    codec = TopKCodec(k=6, dtype="float32")
    plain = codec.decode(codec.encode(Dense(logits), rows_of(3)))
    shown = codec.decode(codec.encode(Dense(logits), rows_of(3, labels=labels)))
    there = (labels >= 0) & (labels < 200)
    assert ((shown.ids == labels[..., None]).sum(-1) == there).all()
    assert torch.equal(shown.ids[..., :5], plain.ids[..., :5])
    assert torch.equal(shown.ids[0, 0], plain.ids[0, 0])
    torch.testing.assert_close(
        shown.log_probabilities, logits.log_softmax(-1).gather(-1, shown.ids), rtol=1e-6, atol=2e-6
    )


@given(
    st.integers(1, 3), st.integers(0, 5), st.integers(2, 200), st.integers(1, 40), st.booleans(), st.integers(0, 2**31)
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_log_probabilities_of_draws_come_back(rows, length, classes, draws, entropy, seed):
    logits = logits_of(rows, length, classes, seed=seed, scale=4.0)
    counted = torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < 0.7
    codec = SampledCodec(draws=draws, entropy=entropy, log_probabilities=True)
    shown = codec.decode(codec.encode(Dense(logits), rows_of(rows, counted)), counted)
    bare = codec.model_copy(update={"log_probabilities": False})
    less = bare.decode(bare.encode(Dense(logits), rows_of(rows, counted)), counted)
    assert same(replace(shown, log_probabilities=None), less)
    exact = logits.double().log_softmax(-1).gather(-1, shown.ids.long())
    used = shown.counts > 0
    assert used.any(-1).equal(counted)
    # half precision: 2^-11 of the value, and below 6e-5 a fixed step; logs of float32 sums are right to some 1e-6
    torch.testing.assert_close(shown.log_probabilities[used].double(), exact[used], rtol=2**-11 + 1e-6, atol=3e-6)
    assert not shown.log_probabilities[~used].any()


def test_impossible_classes_are_stored_with_a_finite_log_probability():
    logits = logits_of(2, 300)
    logits[:, 4:] = -torch.inf
    codec = TopKCodec(k=6)
    shown = codec.decode(codec.encode(Dense(logits), rows_of(2)))
    assert shown.log_probabilities.isfinite().all()
    assert shown.log_probabilities.exp().sum(-1).allclose(torch.ones(2), atol=1e-6)
    drawn = SampledCodec(draws=20).decode(SampledCodec(draws=20).encode(Dense(logits), rows_of(2)))
    assert int(drawn.ids.max()) < 4
    assert drawn.entropy.isfinite().all()


def test_bytes_of_a_token():
    """18 bits for each different class of 151,936, 49 for the counts, 16 for the entropy, and 16 more for each class where
    log-probabilities are stored; and as much for top-k as it says.
    """
    logits = logits_of(1, 64, 151936, scale=3.0)
    logits[..., :8] += 15  # as peaked as text is: about 12 different classes
    sampled = SampledCodec().encode(Dense(logits), rows_of(1))
    different = float((SampledCodec().decode(sampled).counts > 0).sum(-1).float().mean())
    assert sampled.shape[1] / 64 == pytest.approx((18 * different + 49 + 16) / 8, abs=0.5)
    told = SampledCodec(log_probabilities=True).encode(Dense(logits), rows_of(1))
    assert (told.shape[1] - sampled.shape[1]) / 64 == pytest.approx(2 * different)
    top = TopKCodec().encode(Dense(logits), rows_of(1))
    assert top.shape[1] / 64 == pytest.approx((50 * (18 + 16) + 16) / 8, abs=0.5)


def test_codecs_are_chosen_by_name_and_named_by_a_store():
    field = TypeAdapter(CodecField)
    assert field.validate_python("top-k") == TopKCodec()
    assert field.validate_python({"name": "sampled", "draws": 12}) == SampledCodec(draws=12)
    assert field.validate_python("full") == FullCodec()
    assert field.validate_python("full").made() is None
    for codec in CODECS:
        assert codec_of(codec.plain()) == codec
    head = Head(torch.ones(3, 2))
    assert codec_of(HiddenCodec().made(head).plain(), head).plain() == HiddenCodec().made(head).plain()
    assert [one.offers for one in CODECS] == [Offer.OUTCOMES] * 2 + [Offer.EXPECTATIONS] * 3


def test_a_store_of_draws_keeps_its_name_when_a_setting_is_added():
    """The key of a store is made of these; and its bytes stand first in those of more."""
    assert SampledCodec().plain() == {"name": "sampled", "draws": 50, "seed": 0, "entropy": True}
    assert SampledCodec(log_probabilities=True).plain()["log-probabilities"] is True
    logits, counted = logits_of(3, 4, 300), torch.arange(4) < torch.tensor([4, 1, 3])[:, None]
    less, more = (
        SampledCodec(draws=9, log_probabilities=one).encode(Dense(logits), rows_of(3, counted)) for one in (False, True)
    )
    for ours, theirs in zip(less, more, strict=True):
        size = int(ours[:4].numpy().view("<u4")[0])
        assert torch.equal(ours[4:size], theirs[4:size])  # after the size of the row


# The seam: a teacher whose logits are stored


@pytest.mark.parametrize("codec", CODECS)
def test_live_replayed_and_stored_say_the_same(tmp_path, codec):
    teacher = Talking()
    batches = [batch_of(DATA, ids) for ids in torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(9)]
    with CachedTeacher(teacher, tmp_path, "inputs", codec=codec, shard_rows=16) as cached:
        assert cached.provides.offers == codec.offers
        runs = [[cached.observe(batch, LOGITS)["logits"] for batch in batches] for _ in range(2)]
    assert teacher.rows == 40
    stored = StoredTeacher(tmp_path)
    assert (stored.provides.offers, stored.provides.names) == (codec.offers, LOGITS)
    runs.append([stored.observe(batch, LOGITS)["logits"] for batch in batches])
    for batch, *shown in zip(batches, *runs, strict=True):
        assert all(one.rows == batch.masks[TOKENS].shape for one in shown)
        assert all(same(shown[0], one) for one in shown[1:])
    other = batch_of(DATA, range(39, -1, -1))
    mixed = stored.observe(other, LOGITS)["logits"]
    single = [stored.observe(batch_of(DATA, [int(row)]), LOGITS)["logits"] for row in other.ids[:5]]
    for row, one in enumerate(single):
        length = one.rows[1]
        assert same(mixed.at(row * mixed.rows[1] + torch.arange(length)), one.at(torch.arange(length)))
    assert describe(stored.store).signals == {"logits": "uint8 [*]"}


def test_some_rows_missing_asks_only_those_and_joins_them(tmp_path):
    teacher, codec = Talking(), SampledCodec(draws=9)
    with CachedTeacher(teacher, tmp_path, "inputs", codec=codec) as cached:
        cached.observe(batch_of(DATA, [1, 2, 3]), LOGITS)
        batch = batch_of(DATA, [5, 3, 5, 1, 4])
        shown = cached.observe(batch, LOGITS)["logits"]
        assert teacher.rows == 5
    fresh = CachedTeacher(Talking(), tmp_path / "fresh", "inputs", codec=codec)
    assert same(shown, fresh.observe(batch, LOGITS)["logits"])


def test_a_padding_row_is_neither_stored_nor_needed(tmp_path):
    cached = CachedTeacher(Talking(), tmp_path, "inputs", codec=TopKCodec(k=3))
    batch = padded(batch_of(DATA, [11, 30, 5]), 2)
    for _ in range(2):
        shown = cached.observe(batch, LOGITS)["logits"]
        assert (shown.ids[2] == -1).all()
        assert (shown.ids[:2][batch.masks[TOKENS][:2]] >= 0).all()
    cached.close()
    assert describe(cached.store).rows == 2


def test_two_writers_and_a_resumed_labelling(tmp_path):
    codec = SampledCodec(draws=9)
    whole = CachedTeacher(Talking(), tmp_path / "whole", "inputs", codec=codec)
    label(whole, DATA, (0, 1), 8, LOGITS)
    first = CachedTeacher(Talking(), tmp_path / "parts", "inputs", codec=codec, shard_rows=5)
    second = CachedTeacher(Talking(), tmp_path / "parts", "inputs", codec=codec, shard_rows=5)
    label(first, replace(DATA, rows=DATA.rows[:15]), (0, 1), 8, LOGITS)
    label(second, replace(DATA, rows=DATA.rows[10:25]), (1, 0), 7, LOGITS)
    assert second.misses == 20
    third = CachedTeacher(Talking(), tmp_path / "parts", "inputs", codec=codec)
    label(third, DATA, (0, 1), 6, LOGITS)
    assert third.misses == 30
    assert describe(third.store).writers == 3
    batch = batch_of(DATA, list(range(40)) * 2, [0] * 40 + [1] * 40)
    shown = [StoredTeacher(tmp_path / name).observe(batch, LOGITS)["logits"] for name in ("whole", "parts")]
    assert same(*shown)


def test_other_settings_are_another_store_and_none_is_the_old_one(tmp_path):
    teacher = Talking(head=True)
    hidden = HiddenCodec().made(teacher.head)
    other = HiddenCodec().made(Head(teacher.head.weight + 1))
    every = [None, *CODECS, SampledCodec(draws=9, seed=1), hidden, other]
    folders = {CachedTeacher(teacher, tmp_path, "inputs", codec=codec).store.folder for codec in every}
    assert len(folders) == len(every)
    assert CachedTeacher(teacher, tmp_path, "inputs").store.key.keys() == {
        "teacher",
        "inputs",
        "side",
        "codec",
        "version",
    }


def test_hidden_states_are_stored_for_a_teacher_that_shows_them(tmp_path):
    teacher = Talking(head=True)
    batch = batch_of(DATA, range(12))
    live = teacher.observe(batch, LOGITS)["logits"]
    with CachedTeacher(teacher, tmp_path, "inputs", codec=HiddenCodec().made(teacher.head)) as cached:
        cached.observe(batch, LOGITS)
    shown = StoredTeacher(tmp_path, teacher.head).observe(batch, LOGITS)["logits"]
    assert torch.equal(shown.hidden[batch.masks[TOKENS]], live.hidden[batch.masks[TOKENS]])
    assert shown.offers is Offer.ROWS


def test_in_full_the_logits_of_hidden_states_are_stored(tmp_path):
    teacher = Talking(head=True, classes=20)
    batch = batch_of(DATA, range(6))
    cached = CachedTeacher(teacher, tmp_path, "inputs")
    live = teacher.observe(batch, LOGITS)["logits"]
    counted = batch.masks[TOKENS]
    for _ in range(2):
        shown = cached.observe(batch, LOGITS)["logits"]
        torch.testing.assert_close(shown[counted], live.head(live.hidden[counted]))


@pytest.mark.parametrize("codec", CODECS)
def test_a_classifier_has_one_distribution_a_row(tmp_path, codec):
    from tests.fakes.rows import examples

    data = examples(30)
    with CachedTeacher(local(), tmp_path, "inputs", codec=codec) as cached:
        live = cached.observe(batch_of(data, range(30)), LOGITS | {"body"})
    shown = StoredTeacher(tmp_path).observe(batch_of(data, range(29, -1, -1)), LOGITS | {"body"})
    assert shown["logits"].rows == (30,)
    assert torch.equal(shown["body"].flip(0), live["body"])
    assert same(shown["logits"].at(torch.arange(29, -1, -1)), live["logits"])
