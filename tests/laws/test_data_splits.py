"""Splits: disjoint, exhaustive, balanced, nested, and the same everywhere."""

import logging
import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from limbeck.data.batch import CLASS, NO_LABEL, SUPERVISED
from limbeck.data.images import ImageReader, ImageTable, brightness
from limbeck.data.sources import Data
from limbeck.data.splits import balanced, split, split_table

COUNTS = st.lists(st.integers(1, 30), min_size=2, max_size=8)


def labels_of(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    return torch.from_numpy(np.random.default_rng(seed).permutation(labels))


def names(labels):
    return tuple(map(str, range(int(labels.max()) + 1)))


def parts_of(labels, keys=None, **settings):
    return split(labels, names(labels), range(len(labels)) if keys is None else keys, **settings)


@given(COUNTS, st.integers(0, 2**40), st.integers(1, 99))
@settings(deadline=None, max_examples=60)
def test_every_run_of_the_shuffle_has_the_classes_in_their_proportion_within_one_row(counts, seed, salt):
    labels = labels_of(counts, seed % 1000)
    rows = torch.arange(len(labels))
    order = balanced(rows, labels, len(rows), seed, salt)
    assert torch.equal(order.sort()[0], rows)
    assert torch.equal(balanced(rows, labels, len(rows) // 3, seed, salt), order[: len(rows) // 3])
    seen = torch.nn.functional.one_hot(labels[order], len(counts)).cumsum(0).double()
    due = torch.arange(1, len(rows) + 1).double()[:, None] * torch.tensor(counts) / len(rows)
    assert float((seen - due).abs().max()) < 1


@given(
    st.lists(st.integers(6, 30), min_size=2, max_size=5),
    st.integers(0, 9),
    st.floats(0, 0.3),
    st.integers(0, 3),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_parts_are_disjoint_and_hold_every_row_but_repeated_inputs(counts, unlabelled, share, rows, seed):
    labels = torch.cat([labels_of(counts, seed), torch.full((unlabelled,), NO_LABEL)])
    draw = np.random.default_rng(seed)
    keys = np.arange(len(labels))
    again = draw.random(len(keys)) < 0.1
    keys[again] = draw.integers(0, len(keys), int(again.sum()))
    unique = np.unique(labels[torch.from_numpy(np.unique(keys, return_index=True)[1])].numpy(), return_counts=True)
    assume(len(unique[0]) == len(counts) + bool(unlabelled) and unique[1].min() > 3)
    parts = parts_of(labels, keys.tolist(), test=share, validation=rows, seed=seed)
    train, validation, test = (set(part.tolist()) for part in (parts.train, parts.validation, parts.test))
    assert not train & validation
    assert not train & test
    assert not validation & test
    held = [keys[row] for row in (*parts.validation.tolist(), *parts.test.tolist())]
    assert len(held) == len(set(held)), "validation and test hold an input once"
    assert not {keys[row] for row in train} & set(held)
    lost = set(range(len(labels))) - train - validation - test
    assert {keys[row] for row in lost} <= set(held), "only inputs of validation and test are dropped"
    assert len(validation) == rows
    assert {row for row in validation | test if labels[row] == NO_LABEL} == set()
    assert parts.supervised.tolist() == (labels != NO_LABEL).tolist()


def test_parts_have_the_classes_in_their_proportion_within_one_row():
    labels = labels_of([301, 57, 12, 640])
    parts = parts_of(labels, test=0.21, validation=93, seed=3)
    share = torch.bincount(labels).double() / len(labels)
    assert len(parts.validation) == 93
    for rows, slack in ((parts.test, 1), (parts.train, 2), (parts.validation, 2)):  # train is what two draws leave
        assert float((torch.bincount(labels[rows]) - share * len(rows)).abs().max()) < slack


def test_a_smaller_set_of_labels_is_part_of_a_larger_one_and_balanced():
    labels = labels_of([200, 100, 50])
    smaller = torch.zeros(len(labels), dtype=torch.bool)
    for labelled in (7, 20, 100, 101, 200):
        parts = parts_of(labels, labelled=labelled)
        kept = parts.supervised.clone()
        kept[torch.cat([parts.validation, parts.test])] = False
        assert int(kept.sum()) == labelled
        assert bool((smaller <= kept).all())
        due = torch.bincount(labels[parts.train]) * labelled / len(parts.train)
        assert float((torch.bincount(labels[kept]) - due).abs().max()) < 1
        smaller = kept


def test_a_smaller_limit_keeps_part_of_a_larger_one_and_leaves_the_other_parts():
    labels = labels_of([200, 100, 50])
    whole = parts_of(labels)
    smaller: set[int] = set()
    for limit in (20, 80, 81, 10_000):
        parts = parts_of(labels, limit=limit)
        assert len(parts.train) == min(limit, len(whole.train))
        assert smaller <= set(parts.train.tolist())
        assert torch.equal(parts.test, whole.test)
        assert torch.equal(parts.validation, whole.validation)
        smaller = set(parts.train.tolist())


def test_the_validation_size_does_not_move_the_test_part():
    labels = labels_of([90, 60])
    assert torch.equal(parts_of(labels, validation=0.1).test, parts_of(labels, validation=40).test)


def test_the_seed_alone_decides():
    labels = labels_of([80, 40, 40])
    first = parts_of(labels, labelled=30, seed=5)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    state = torch.get_rng_state()
    second = parts_of(labels, labelled=30, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("train", "validation", "test", "supervised"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.equal(parts_of(labels, seed=6).test, first.test)


def test_a_split_stays_what_it_was():
    """Anything that alters this moves rows between parts in everybody's experiments."""
    parts = parts_of(torch.arange(20) % 2, test=4, validation=2, seed=0, labelled=6)
    golden = {"test": [2, 9, 16, 17], "validation": [0, 13]}
    assert {name: getattr(parts, name).tolist() for name in golden} == golden


def test_own_parts_are_kept_and_lend_nothing_to_train(caplog):
    labels = labels_of([30, 30])
    keys = list(range(60))
    keys[0] = keys[55]  # train and test
    keys[1] = keys[45]  # train and validation
    keys[46] = keys[56]  # validation and test
    keys[59] = keys[58]  # test, twice
    own = {"validation": torch.arange(40, 50), "test": torch.arange(50, 60)}
    with caplog.at_level(logging.WARNING):
        parts = parts_of(labels, keys, own=own)
    assert parts.test.tolist() == list(range(50, 59))
    assert parts.validation.tolist() == [40, 41, 42, 43, 44, 45, 47, 48, 49]
    assert parts.train.tolist() == list(range(2, 40))
    told = [record.getMessage() for record in caplog.records]
    assert [one.split()[0] for one in told if "dropped" in one] == ["1", "1", "2"]
    assert "3 inputs stand there with different labels" in told[0]


def test_hidden_labels_are_nowhere_in_a_batch():
    splits = Data(source="mnist-5k", labelled=100, limit=400).load()
    batch = splits.train.batch(splits.train.rows, torch.zeros(400, dtype=torch.int64))
    hidden = ~batch.masks[SUPERVISED]
    assert int(hidden.sum()) == 300
    assert bool((batch.labels[CLASS][hidden] == NO_LABEL).all())
    assert torch.equal(batch.labels[CLASS][~hidden], splits.train.labels[batch.ids[~hidden]])
    assert len(splits.train.labelled()) == 100
    validation = splits.validation.batch(splits.validation.rows, torch.zeros(len(splits.validation), dtype=torch.int64))
    assert bool(validation.masks[SUPERVISED].all())


def test_unlabelled_rows_are_for_training_alone():
    labels = labels_of([40, 40])
    labels[::4] = NO_LABEL
    parts = parts_of(labels)
    assert set((labels == NO_LABEL).nonzero()[:, 0].tolist()) <= set(parts.train.tolist())


def test_images_are_normalised_by_the_training_rows_alone():
    splits = Data(source="mnist-5k", limit=200).load()
    assert (splits.reader.mean, splits.reader.std) == brightness(splits.train.table.pixels, splits.train.rows)
    assert splits.reader.mean != brightness(splits.train.table.pixels, torch.arange(5000))[0]


def test_digits_are_what_they_should_be():
    splits = Data(source="mnist-5k").load()
    assert splits.classes == tuple("0123456789")
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [3500, 500, 1000]
    assert torch.bincount(splits.train.labels).tolist() == [500] * 10
    assert splits.train.table.pixels.shape == (5000, 1, 28, 28)
    assert int(splits.train.table.pixels.max()) == 255


@pytest.mark.parametrize(
    ("settings", "looks"),
    [({}, 0), ({"views": 4}, 0), ({"mixup": 0.2}, None), ({"augment": {"shift": 1}, "views": 4}, 4)],
)
def test_looks(settings, looks):
    assert Data(source="mnist-5k", **settings).looks == looks


def test_only_training_rows_are_mixed():
    splits = Data(source="mnist-5k", mixup=0.4).load()
    assert (splits.train.mixup, splits.validation.mixup, splits.test.mixup) == (0.4, 0, 0)


def test_a_table_that_exists_is_split_as_a_source_is():
    splits = Data(source="mnist-5k", labelled=100, seed=2).load()
    pixels, labels = splits.train.table.pixels, splits.train.labels
    reader = ImageReader(height=28, width=28, channels=1, mean=(0.5,), std=(0.5,))
    other = split_table(ImageTable(pixels, reader), labels, splits.classes, labelled=100, seed=2, mixup=0.1)
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(other, name).rows, getattr(splits, name).rows)
    assert torch.equal(other.train.supervised, splits.train.supervised)
    assert (other.train.mixup, other.test.mixup) == (0.1, 0)
