"""Labelling in parts: whoever asks for which batch, and when, the store is the same, and nothing is asked twice."""

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.experiments import plan, seeded_teacher, smooth, splits
from tests.fakes.rows import LOGITS, Named, Plain, Reader, Texts, examples, local

from limbeck.errors import LimbeckError
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label, missing
from limbeck.teachers.part import WHOLE, Part
from limbeck.teachers.store import Store, describe

DATA = examples(200)
VIEWS = (0, 2)


def everything(store: Store, data=DATA, views=VIEWS) -> torch.Tensor:
    """All logits of a store as bits, or an error where a row is missing."""
    rows = data.rows.numpy()
    found = []
    for view in views:
        at = store.find(rows, np.full(len(rows), view), LOGITS)["logits"]
        assert (at[0] >= 0).all()
        found.append(store.read("logits", at))
    return torch.cat(found).contiguous().view(torch.uint8)


def labelled(root, teacher, parts, data=DATA, views=VIEWS):
    for part in parts:
        with CachedTeacher(teacher, root, "inputs", shard_rows=50) as cached:
            label(cached, data, views, 32, LOGITS, part=part)
    return Store(root, cached.store.key)


# --- what a part is


def test_parts_are_read():
    assert Part.read("2/4") == Part(2, 4)
    assert Part.read(" 1/1 ") == WHOLE


@pytest.mark.parametrize("said", ["5/4", "0/4", "1/0", "0/0"])
def test_there_is_no_such_part(said):
    with pytest.raises(LimbeckError, match=rf"no part {said}: .*1/N on the first") as caught:
        Part.read(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("said", ["", "1", "1/", "/4", "-1/4", "1/4/2", "a/b", "1.0/4", "１/４", "1/9999999"])
def test_what_is_no_part_is_named(said):
    with pytest.raises(LimbeckError, match=r"written as 1/4") as caught:
        Part.read(said)
    assert repr(said) in str(caught.value)


@given(st.integers(1, 9), st.integers(0, 60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_batch_is_in_just_one_part(of, batch):
    assert sum(Part(number, of).has(batch) for number in range(1, of + 1)) == 1


def test_parts_are_equally_large():
    sizes = [sum(Part(number, 4).has(batch) for batch in range(50)) for number in range(1, 5)]
    assert sorted(sizes) == [12, 12, 13, 13]


# --- parts = the whole


@pytest.mark.parametrize(("kind", "data"), [(Plain, DATA), (Reader, examples(200, Texts))], ids=["vectors", "texts"])
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_are_the_whole_bit_for_bit(tmp_path, kind, data, order):
    teacher = local(kind)
    whole = labelled(tmp_path / "whole", teacher, [WHOLE], data)
    parts = labelled(tmp_path / "parts", teacher, [Part(number, 3) for number in order], data)
    assert torch.equal(everything(whole, data), everything(parts, data))
    assert describe(parts).writers == 3


def test_a_part_asks_for_its_own_rows_and_says_so(tmp_path):
    told, asked = [], []

    class Recording(Named):
        def observe(self, batch, needs):
            asked.append((int(batch.views[0]), batch.ids.tolist()))
            return super().observe(batch, needs)

    with CachedTeacher(Recording(), tmp_path, "inputs") as cached:
        label(cached, DATA, VIEWS, 32, LOGITS, lambda done, total: told.append((done, total)), part=Part(2, 3))
    # 7 batches a view, the last one of 8 rows; the batches of both views are counted on
    assert [(view, ids[0], len(ids)) for view, ids in asked] == [
        (0, 32, 32),
        (0, 128, 32),
        (2, 0, 32),
        (2, 96, 32),
        (2, 192, 8),
    ]
    assert told[0] == (0, 136)
    assert told[-1] == (136, 136)
    assert sum(missing(cached.store, DATA.rows.numpy(), view, LOGITS).sum() for view in VIEWS) == 400 - 136


def test_more_parts_than_batches_are_empty(tmp_path):
    teacher = Named()
    store = labelled(tmp_path, teacher, [Part(number, 30) for number in range(1, 31)])
    assert teacher.rows == 400
    everything(store)


def test_what_is_done_again_is_asked_in_the_same_batches(tmp_path):
    """A damaged file, or a part that stopped within a batch's neighbour: no batch runs on into the next one."""
    asked = []

    class Recording(Named):
        def observe(self, batch, needs):
            asked.append(batch.ids.tolist())
            return super().observe(batch, needs)

    store = labelled(tmp_path, Named(), [WHOLE], views=(0,))
    assert len(store.shards()) > 2
    store.shards()[1].path.unlink()
    labelled(tmp_path, Recording(), [WHOLE], views=(0,))
    assert asked == [list(range(64, 96)), list(range(96, 128))]


def _one(root, number):
    torch.set_num_threads(1)
    labelled(root, local(), [Part(number, 4)])


def test_four_processes_at_once_write_one_store(tmp_path):
    whole = labelled(tmp_path / "whole", local(), [WHOLE])
    fork = multiprocessing.get_context("fork")
    several = [fork.Process(target=_one, args=(tmp_path / "parts", number)) for number in range(1, 5)]
    for one in several:
        one.start()
    for one in several:
        one.join(60)
        assert one.exitcode == 0
    store = Store(tmp_path / "parts", whole.key)
    assert torch.equal(everything(whole), everything(store))
    assert (describe(store).rows, describe(store).writers) == (400, 4)


def test_a_killed_part_is_resumed_by_row(tmp_path):
    class Dies(Named):
        def observe(self, batch, needs):
            if self.rows >= 96:
                raise KeyboardInterrupt
            return super().observe(batch, needs)

    with pytest.raises(KeyboardInterrupt):
        labelled(tmp_path, Dies(), [Part(1, 2)])
    teacher = Named()
    labelled(tmp_path, teacher, [Part(1, 2)])
    assert teacher.rows == 200 - 96, "three batches were done"
    labelled(tmp_path, teacher, [Part(2, 2)])
    assert teacher.rows == 400 - 96


# --- parts of something else


MIXED = replace(splits(), train=replace(splits().train, mixup=0.2))


@pytest.mark.parametrize(
    "other", [{"teacher": seeded_teacher(smooth, seed=6)}, {"splits": MIXED}], ids=["another teacher", "another mixing"]
)
def test_a_part_of_another_recipe_goes_elsewhere(tmp_path, other):
    ours, theirs = plan(store=tmp_path), plan(store=tmp_path, **other)
    first, second = ours.cached(), theirs.cached()
    ours.label(first, Part(1, 2))
    theirs.label(second, Part(2, 2))
    for teacher in (first, second):
        teacher.close()
    assert first.store.folder != second.store.folder
    # 50 rows, 2 views: a batch each
    assert (ours.unlabelled(ours.cached()), theirs.unlabelled(theirs.cached())) == (50, 50)


def test_a_part_of_a_recipe_that_only_trains_otherwise_is_the_same_labelling(tmp_path):
    one = plan(store=tmp_path)
    other = plan(store=tmp_path, seed=5, training=one.training.model_copy(update={"clip": None}))
    for each, part in ((one, Part(1, 2)), (other, Part(2, 2))):
        with each.cached() as teacher:
            each.label(teacher, part)
    assert one.labelling_batches == 2
    assert one.unlabelled(one.cached()) == 0 == other.unlabelled(other.cached())
