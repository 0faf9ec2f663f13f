"""Ten thousand texts of unequal length, stored and shown in other batches: each row is the teacher's own, token by token."""

import pytest
import torch
from tests.fakes.rows import LOGITS, Reader, Texts, batch_of, examples, local

from limbeck.errors import SignalError
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.store.codec import packed
from limbeck.teachers.store.writer import Writer
from limbeck.teachers.stored import StoredTeacher

STATES = frozenset({"logits", "states"})


def shuffled(data, seed):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randperm(len(data), generator=draw)
    sizes = torch.randint(1, 97, (len(data),), generator=draw).cumsum(0)
    return [batch_of(data, part) for part in ids.tensor_split(sizes[sizes < len(data)])]


def wrong(teacher, live, data, seed):
    """How many rows are not what the teacher says now, where tokens are."""
    found = 0
    for batch in shuffled(data, seed):
        shown, expected = teacher.observe(batch, STATES), live.observe(batch, STATES)
        apart = (shown["states"] - expected["states"]).abs() * batch.masks["tokens"][..., None]
        found += int(
            ((apart > 1e-5).flatten(1).any(1) | ((shown["logits"] - expected["logits"]).abs() > 1e-5).any(1)).sum()
        )
    return found


def aligned(tmp_path, rows, shuffles, tried):
    data, live = examples(rows, Texts), local(Reader)
    with CachedTeacher(live, tmp_path, "inputs", shard_rows=999) as cached:
        for seed in range(shuffles):
            assert wrong(cached, live, data, seed) == 0
        assert cached.misses == rows
    stored = StoredTeacher(tmp_path)
    for seed in range(shuffles):
        assert wrong(stored, live, data, seed + 100) == 0
    tried(rows_compared=2 * rows * shuffles)


@pytest.mark.proof("Q7")
def test_ragged_rows_are_those_that_were_asked(tmp_path, tried):
    aligned(tmp_path, 1000, 2, tried)


@pytest.mark.faults
@pytest.mark.proof("Q7")
def test_ten_thousand_ragged_rows_are_those_that_were_asked(tmp_path, tried):
    aligned(tmp_path, 10_000, 5, tried)


PLANTS = {"shift": lambda rows: rows.roll(1), "permutation": lambda rows: rows[torch.randperm(len(rows))]}


@pytest.mark.proof("Q7")
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_misalignment_of_ragged_rows_is_caught(tmp_path, plant, tried):
    """By a comparison with the teacher; and without one, by what is kept of each row's input."""
    data, live = examples(600, Texts), local(Reader)
    with CachedTeacher(live, tmp_path, "inputs", shard_rows=200) as cached:
        for batch in shuffled(data, 0):
            cached.observe(batch, STATES)
        cached.flush()
        shard = cached.store.shards()[1]
        order = PLANTS[plant](torch.arange(len(shard.ids))).numpy()
        moved = packed(shard.ids[order], shard.views[order], shard.columns)
        Writer(cached.store.folder, cached.store.key).commit(moved)
        shard.path.unlink()
    assert wrong(CachedTeacher(live, tmp_path, "inputs"), live, data, 1) > 0.9 * len(order)
    stored, moved = StoredTeacher(tmp_path), batch_of(data, shard.ids[order != torch.arange(len(order)).numpy()])
    with pytest.raises(SignalError, match="saw another input under id"):
        stored.observe(moved, LOGITS)
    tried(planted_misalignments=1)
