"""Stored teacher outputs are the teacher's: whatever is batched, shuffled, cut or asked for."""

import multiprocessing
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.rows import LOGITS, Named, Plain, Reader, Texts, batch_of, examples, local, padded
from tests.fakes.served import serving

from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError, SignalError
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.teachers.store import Store, describe, store_key
from limbeck.teachers.store.codec import Column, gather, joined, packed
from limbeck.teachers.store.writer import Writer
from limbeck.teachers.stored import StoredTeacher
from limbeck.teachers.teacher import Provides

DATA = examples(200)
STATES = frozenset({"logits", "states"})


def wrong_rows(teacher, rows: int, shuffles: int = 5) -> int:
    """How many answers of `Named`, over shuffles and ragged batches, name another row than was asked for."""
    wrong = 0
    for seed in range(shuffles):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randperm(rows, generator=generator)
        sizes = torch.randint(1, 97, (rows,), generator=generator).cumsum(0)
        for part in ids.tensor_split(sizes[sizes < rows]):
            views = part % 3
            batch = Batch.of(part[:, None], ids=part)
            batch = Batch(batch.inputs, batch.labels, batch.masks, part, views)
            wrong += int((teacher.observe(batch, LOGITS)["logits"] != torch.stack([part, views], 1)).any(1).sum())
    return wrong


@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=12), max_size=12))
@settings(max_examples=40, deadline=None)
def test_cached_is_live_whatever_the_batches_are(batches):
    live = local()
    with tempfile.TemporaryDirectory() as folder:
        stored: set[tuple[int, int]] = set()
        with CachedTeacher(live, Path(folder), "inputs", shard_rows=7) as cached:
            for rows in batches:
                batch = batch_of(DATA, *zip(*rows, strict=True))
                torch.testing.assert_close(
                    cached.observe(batch, LOGITS)["logits"], live.observe(batch, LOGITS)["logits"], rtol=0, atol=1e-6
                )
                stored |= set(rows)
        again = CachedTeacher(live, Path(folder), "inputs")
        for rows in batches:
            again.observe(batch_of(DATA, *zip(*rows, strict=True)), LOGITS)
        assert again.misses == 0
        assert describe(again.store).rows == len(stored)


@pytest.mark.parametrize(("kind", "data", "needs"), [(Plain, DATA, LOGITS), (Reader, examples(200, Texts), STATES)])
def test_a_store_of_a_live_run_is_replayed_bit_for_bit(tmp_path, kind, data, needs):
    batches = [batch_of(data, ids) for ids in torch.randperm(200).split(33)]
    live = [local(kind).observe(batch, needs) for batch in batches]
    with CachedTeacher(local(kind), tmp_path, "inputs", shard_rows=50) as teacher:
        runs = [[teacher.observe(batch, needs) for batch in batches] for _ in range(2)]
    runs.append([StoredTeacher(tmp_path).observe(batch, needs) for batch in batches])
    for run in runs:
        for shown, expected in zip(run, live, strict=True):
            assert all(torch.equal(shown[name], expected[name]) for name in needs)


@pytest.mark.proof("Q7")
def test_10000_rows_5_shuffles_ragged_batches_no_mismatch(tmp_path, tried):
    teacher = Named()
    with CachedTeacher(teacher, tmp_path, "inputs", shard_rows=1000) as cached:
        assert wrong_rows(cached, 10_000) == 0
    assert teacher.rows == 10_000
    assert wrong_rows(StoredTeacher(tmp_path), 10_000) == 0
    tried(rows_compared=2 * 5 * 10_000)


@pytest.mark.parametrize(
    "plant", [lambda rows: rows.roll(1), lambda rows: rows[torch.randperm(len(rows))]], ids=["shift", "permutation"]
)
@pytest.mark.proof("Q7")
def test_planted_misalignment_is_caught(tmp_path, plant, tried):
    """The test above can fail: one shard, with a right checksum, has its ids shifted by one or permuted."""
    with CachedTeacher(Named(), tmp_path, "inputs", shard_rows=1000) as cached:
        wrong_rows(cached, 10_000, 1)
        shard = cached.store.shards()[3]
        order = plant(torch.arange(len(shard.ids))).numpy()
        Writer(cached.store.folder, cached.store.key).commit(
            packed(shard.ids[order], shard.views[order], shard.columns)
        )
        shard.path.unlink()
    assert wrong_rows(CachedTeacher(Named(), tmp_path, "inputs"), 10_000, 1) > 900
    tried(planted_misalignments=1)


@pytest.mark.proof("Q7")
def test_ragged_texts_are_cropped_and_padded_to_the_batch(tmp_path, tried):
    data, live = examples(200, Texts), local(Reader)
    with CachedTeacher(live, tmp_path, "inputs", shard_rows=60) as cached:
        for seed in range(4):
            for ids in torch.randperm(200, generator=torch.Generator().manual_seed(seed)).split(17):
                batch = batch_of(data, ids)
                shown, expected = cached.observe(batch, STATES), live.observe(batch, STATES)
                assert shown["states"].shape == expected["states"].shape
                counted = batch.masks["tokens"]
                for at, name in ((counted, "states"), (..., "logits")):
                    torch.testing.assert_close(shown[name][at], expected[name][at], rtol=0, atol=1e-6)
    assert cached.misses == 200
    tried(rows_compared=4 * 200)


class Maps:
    """Attention of twelve heads, as many as the longest text has tokens."""

    module, fingerprint = None, "maps"
    provides = Provides(frozenset({"attention.2.probs", "one.attention.2.scores"}))

    def observe(self, batch, needs):
        tokens, mask = batch.inputs["input_ids"].float(), batch.masks["tokens"]
        scores = tokens[:, None, :, None] * tokens[:, None, None, :] * torch.linspace(-1, 1, 12)[:, None, None]
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        return {"attention.2.probs": scores.softmax(-1), "one.attention.2.scores": scores}


def test_ragged_maps_are_cropped_and_padded_on_both_sides_and_heads_never(tmp_path):
    data, live, needs = examples(200, Texts), Maps(), Maps.provides.names
    with CachedTeacher(live, tmp_path, "inputs", shard_rows=60) as cached:
        for seed in range(3):
            for ids in torch.randperm(200, generator=torch.Generator().manual_seed(seed)).split(9):
                batch = batch_of(data, ids)
                shown, expected = cached.observe(batch, needs), live.observe(batch, needs)
                both = (batch.masks["tokens"][:, None, :, None] & batch.masks["tokens"][:, None, None, :]).expand(
                    -1, 12, -1, -1
                )
                for name in needs:
                    assert shown[name].shape == expected[name].shape
                    assert shown[name][both].equal(expected[name][both])
    assert cached.misses == 200


def test_logits_with_as_many_classes_as_tokens_are_not_cropped(tmp_path):
    data, live = examples(60, Texts), local(Reader)
    longest = batch_of(data, [row for row in range(60) if (row * 7) % 12 == 11][:1])
    assert longest.inputs["input_ids"].shape[1] == live.observe(longest, LOGITS)["logits"].shape[1] == 12
    cached = CachedTeacher(live, tmp_path, "inputs")
    for _ in range(2):
        assert cached.observe(longest, LOGITS)["logits"].shape == (1, 12)


def test_some_rows_missing_asks_only_those(tmp_path):
    teacher = Named()
    cached = CachedTeacher(teacher, tmp_path, "inputs")
    cached.observe(batch_of(DATA, [1, 2, 3]), LOGITS)
    shown = cached.observe(batch_of(DATA, [5, 3, 5, 1, 4]), LOGITS)["logits"]
    assert shown[:, 0].tolist() == [5, 3, 5, 1, 4]
    assert teacher.rows == 5  # row 5, twice in the batch, is asked once
    assert (cached.hits, cached.misses) == (2, 6)


def test_only_the_missing_signal_is_asked(tmp_path):
    asked = []

    class Recording(Named):
        def observe(self, batch, needs):
            asked.append((batch.ids.tolist(), set(needs)))
            return super().observe(batch, needs)

    cached = CachedTeacher(Recording(), tmp_path, "inputs")
    cached.observe(batch_of(DATA, [1, 2]), LOGITS)
    cached.flush()
    cached.observe(batch_of(DATA, [1, 2]), frozenset({"logits", "body"}))
    cached.observe(batch_of(DATA, [2, 3]), frozenset({"logits", "body"}))
    assert asked == [([1, 2], {"logits"}), ([1, 2], {"body"}), ([3], {"logits", "body"})]
    cached.close()
    assert describe(cached.store).signals == {"body": "float32 [2]", "logits": "float32 [2]"}


def test_a_row_twice_in_a_batch_is_answered_alike(tmp_path):
    class Moody(Named):
        def observe(self, batch, needs):
            return {name: torch.randn(len(batch), 3) for name in needs}

    cached = CachedTeacher(Moody(), tmp_path, "inputs")
    batch = batch_of(DATA, [4, 4, 1, 4])
    shown = cached.observe(batch, LOGITS)["logits"]
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown, cached.observe(batch, LOGITS)["logits"])


def test_padding_rows_are_never_stored(tmp_path):
    with CachedTeacher(Named(), tmp_path, "inputs") as cached:
        cached.observe(padded(batch_of(DATA, [1, 2, 9, 9]), 2), LOGITS)
        cached.observe(padded(batch_of(DATA, [7, 8, 9]), 0), LOGITS)
    assert cached.store.pairs().tolist() == [[1, 0], [2, 0]]
    assert (cached.hits, cached.misses) == (0, 2)


def test_rows_with_nan_are_shown_but_never_stored(tmp_path):
    class Broken(Named):
        def observe(self, batch, needs):
            return {"logits": torch.where(batch.ids == 2, float("nan"), 1.0)[:, None].repeat(1, 3)}

    with CachedTeacher(Broken(), tmp_path, "inputs") as cached:
        for _ in range(2):
            assert cached.observe(batch_of(DATA, [1, 2, 3]), LOGITS)["logits"].isnan().any(1).tolist() == [
                False,
                True,
                False,
            ]
    assert cached.store.pairs()[:, 0].tolist() == [1, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_bits_and_dtype_are_kept(tmp_path, dtype):
    values = torch.randn(50, 2, 3).mul(3).to(dtype)
    if dtype.is_floating_point:
        values[7, 0, 0], values[8, 0, 0], values[9, 0, 0] = float("-inf"), -0.0, torch.finfo(dtype).smallest_normal / 4

    class Values(Named):
        def observe(self, batch, needs):
            return dict.fromkeys(needs, values[batch.ids])

    with CachedTeacher(Values(), tmp_path, "inputs", shard_rows=9) as cached:
        for ids in torch.arange(50).split(8):
            cached.observe(batch_of(DATA, ids), LOGITS)
    ids = torch.randperm(50)
    shown = StoredTeacher(tmp_path).observe(batch_of(DATA, ids), LOGITS)["logits"]
    assert shown.dtype == dtype
    assert torch.equal(shown.view(torch.uint8), values[ids].view(torch.uint8))


def test_any_ids_and_views_are_told_apart(tmp_path):
    """Also where two of them have one key in the index."""
    spread = -7046029254386353131
    ids = [0, spread, 2**63 - 1, -(2**63), 5, (2 * spread + 2**63) % 2**64 - 2**63]
    views = [1, 0, 2**62, -1, 5, -1]
    teacher = Named()
    cached = CachedTeacher(teacher, tmp_path, "inputs")
    made = Batch.of(torch.zeros(6, 1))
    batch = Batch(made.inputs, made.labels, made.masks, torch.tensor(ids), torch.tensor(views))
    live = cached.observe(batch, LOGITS)["logits"]
    cached.flush()
    order = torch.tensor([3, 0, 1, 5, 4, 2])
    assert torch.equal(cached.observe(batch.select(order), LOGITS)["logits"], live[order])
    assert teacher.rows == 6


@pytest.mark.parametrize("change", [{name: "other"} for name in store_key("teacher", "inputs")], ids=str)
@pytest.mark.proof("Q6")
def test_whatever_outputs_depend_on_changes_the_store(tmp_path, change, tried):
    key = store_key("teacher", "inputs")
    with Store(tmp_path, key) as store:
        store.add(np.arange(3), np.zeros(3, np.int64), {"logits": torch.zeros(3, 2)})
    assert (Store(tmp_path, key).find(np.arange(3), np.zeros(3, np.int64), LOGITS)["logits"][0] >= 0).all()
    other = Store(tmp_path, {**key, **change})
    assert other.folder != store.folder
    assert (other.find(np.arange(3), np.zeros(3, np.int64), LOGITS)["logits"][0] < 0).all()
    tried(changes_of_what_labels_depend_on=1)


@pytest.mark.proof("Q6")
def test_inputs_fingerprint_of_examples_changes_with_content(tmp_path, tried):
    data = examples(20)
    other = replace(data, table=type(data.table)(20, fingerprint="vectors with one byte changed"))
    first = CachedTeacher(Named(), tmp_path, data.inputs_fingerprint)
    assert first.store.folder != CachedTeacher(Named(), tmp_path, other.inputs_fingerprint).store.folder
    tried(changes_of_what_labels_depend_on=1)


@pytest.mark.proof("Q6")
def test_a_teacher_that_moves_is_refused(tmp_path, tried):
    with pytest.raises(SignalError, match="moves"):
        CachedTeacher(Named(fingerprint=None), tmp_path, "inputs")
    teacher = Named()
    cached = CachedTeacher(teacher, tmp_path, "inputs")
    teacher.fingerprint = "fine-tuned"
    with pytest.raises(SignalError, match="altered"):
        cached.observe(batch_of(DATA, [1]), LOGITS)
    tried(changes_of_what_labels_depend_on=2)


def test_a_signal_that_is_not_provided_is_refused_before_anything_is_asked(tmp_path):
    teacher = Named()
    teacher.provides = Provides(names=LOGITS)
    with pytest.raises(SignalError, match="'body'"):
        CachedTeacher(teacher, tmp_path, "inputs").observe(batch_of(DATA, [1]), frozenset({"logits", "body"}))
    assert teacher.rows == 0


def test_rows_of_other_shapes_are_named(tmp_path):
    class Growing(Named):
        def observe(self, batch, needs):
            return {name: torch.ones(len(batch), 2 + int(batch.ids.max()) // 10) for name in needs}

    cached = CachedTeacher(Growing(), tmp_path, "inputs")
    for ids in ([1], [11]):
        cached.observe(batch_of(DATA, ids), LOGITS)
    with pytest.raises(SignalError, match="shape"):
        cached.observe(batch_of(DATA, [1, 11]), LOGITS)
    with pytest.raises(SignalError, match="shape"):
        cached.observe(batch_of(DATA, [1, 21]), LOGITS)


def test_stored_outputs_alone(tmp_path):
    with pytest.raises(LimbeckError, match="holds no stored"):
        StoredTeacher(tmp_path)
    with CachedTeacher(Named(), tmp_path, "inputs") as cached:
        cached.observe(batch_of(DATA, [1, 2, 3]), LOGITS)
    moved = cached.store.folder.rename(tmp_path / "a name of one's own")
    stored = StoredTeacher(moved)
    assert stored.fingerprint == "named"
    assert stored.provides.names == LOGITS
    assert stored.observe(batch_of(DATA, [3, 1]), LOGITS)["logits"][:, 0].tolist() == [3, 1]
    with pytest.raises(SignalError, match=r"2 of 3 rows.*id 8 view 0, id 9 view 0"):
        stored.observe(batch_of(DATA, [8, 1, 9]), LOGITS)
    with pytest.raises(SignalError, match="'body'"):
        stored.observe(batch_of(DATA, [1]), frozenset({"body"}))
    with CachedTeacher(Named("another"), tmp_path, "inputs") as cached:
        cached.observe(batch_of(DATA, [1]), LOGITS)
    with pytest.raises(LimbeckError, match="holds 2 stored"):
        StoredTeacher(tmp_path)


def test_labelling_stores_every_row_and_view_once_and_goes_on(tmp_path):
    data, told = replace(DATA, rows=torch.arange(0, 200, 2)), []
    for expected in (200, 0):
        teacher = Named()
        with CachedTeacher(teacher, tmp_path, "inputs", shard_rows=30) as cached:
            label(cached, data, (0, 3), 32, LOGITS, lambda done, total: told.append((done, total)))
        assert teacher.rows == expected
    assert told[0] == (0, 200)
    assert told[-2:] == [(200, 200), (200, 200)]
    info = describe(cached.store)
    assert (info.rows, info.writers, info.aside, info.key["inputs"]) == (200, 1, 0, "inputs")
    assert info.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))


def test_nothing_is_made_on_disk_before_there_is_something_to_keep(tmp_path):
    with CachedTeacher(Named(), tmp_path / "root", "inputs") as cached:
        assert cached.store.names == frozenset()
        assert describe(cached.store).rows == 0
    assert not (tmp_path / "root").exists()


def test_shards_of_another_writer_are_noticed(tmp_path):
    first, second = (CachedTeacher(Named(), tmp_path, "inputs") for _ in range(2))
    first.observe(batch_of(DATA, [1, 2]), LOGITS)
    second.observe(batch_of(DATA, [3]), LOGITS)
    first.flush()
    second.observe(batch_of(DATA, [1, 2, 3]), LOGITS)
    assert second.teacher.rows == 1
    second.flush()
    first.observe(batch_of(DATA, [3]), LOGITS)
    assert first.teacher.rows == 2
    first.close()
    second.close()


def test_a_folder_of_another_store_is_refused(tmp_path):
    batch = batch_of(DATA, [1, 2])
    with CachedTeacher(Named(), tmp_path, "inputs") as first:
        first.observe(batch, LOGITS)
    with CachedTeacher(Named(), tmp_path, "other") as second:
        second.observe(batch, LOGITS)
    second.store.folder.rename(tmp_path / "away")
    first.store.folder.rename(second.store.folder)
    moved = CachedTeacher(Named(), tmp_path, "other")
    with pytest.raises(LimbeckError, match="holds the outputs for another inputs, so its folder was moved"):
        moved.observe(batch, LOGITS)


def _label_half(root, start):
    torch.set_num_threads(1)
    with CachedTeacher(Named(), root, "inputs", shard_rows=40) as teacher:
        label(teacher, replace(DATA, rows=torch.arange(start, start + 120)), (0,), 7, LOGITS)


@pytest.mark.proof("Q10")
def test_two_processes_write_at_once(tmp_path, tried):
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=_label_half, args=(tmp_path, start)) for start in (0, 80)]
    for one in both:
        one.start()
    for one in both:
        one.join(30)
        assert one.exitcode == 0
    stored = StoredTeacher(tmp_path)
    for ids in torch.randperm(200).split(50):
        assert torch.equal(stored.observe(batch_of(DATA, ids), LOGITS)["logits"][:, 0], ids.float())
    info = describe(stored.store)
    assert (info.rows, info.writers) == (200, 2)
    first = [
        StoredTeacher(tmp_path).store.find(np.arange(200), np.zeros(200, np.int64), LOGITS)["logits"] for _ in "ab"
    ]
    assert all(np.array_equal(one, other) for one, other in zip(*first, strict=True))
    tried(rival_writers=2)


def test_served_is_local_bit_for_bit_and_its_cache_too(tmp_path):
    inner = local()
    with serving(inner) as served, CachedTeacher(served, tmp_path, "inputs") as cached:
        for _ in range(2):
            for ids in torch.arange(200).split(48):
                batch = batch_of(DATA, ids)
                assert torch.equal(cached.observe(batch, LOGITS)["logits"], inner.observe(batch, LOGITS)["logits"])
        assert served.asked == 200


def test_a_lookup_is_fast(tmp_path):
    """A tenth of what is measured, so that a busy machine passes and a row-by-row lookup does not."""
    import time

    with CachedTeacher(Named(), tmp_path, "inputs") as cached:
        for ids in torch.randperm(20_000).split(500):
            cached.observe(Batch.of(ids[:, None], ids=ids), LOGITS)
        batches = [Batch.of(ids[:, None], ids=ids) for ids in torch.randperm(20_000).split(128)]
        start = time.process_time()
        for batch in batches:
            cached.observe(batch, LOGITS)
    assert 20_000 / (time.process_time() - start) > 50_000


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])  # rows of bytes are moved in another way
@pytest.mark.parametrize("length", [None, 3, 9])
def test_rows_of_any_length_are_padded_and_cropped(dtype, length):
    lengths = [[4, 0, 7], [2, 5]]
    rows = [[torch.arange(1, n + 1, dtype=dtype) for n in own] for own in lengths]
    pieces = {at: joined([Column(row[None], (0,)) for row in own]) for at, own in enumerate(rows)}
    assert all(piece.offsets is not None for piece in pieces.values())
    asked = [(1, 1), (0, 2), (-1, -1), (0, 1), (0, 0), (1, 0), (0, 2)]
    found = gather("states", tuple(np.array(one) for one in zip(*asked, strict=True)), pieces, length)
    assert found.dtype == dtype
    assert found.shape == (len(asked), 7 if length is None else length)
    for (piece, row), one in zip(asked, found, strict=True):
        own = rows[piece][row][:length] if piece >= 0 else one[:0]
        assert torch.equal(one[: len(own)], own)
        assert not one[len(own) :].any()
