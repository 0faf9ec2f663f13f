"""What each of several teachers counts by what it says: an oracle from the formulas in float64, laws, and what must not leak."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.rows import LOGITS, examples
from tests.laws.test_ensembles import BATCH, DATA, Said, draws, shown

from limbeck.data.tasks import MultiLabel
from limbeck.errors import LimbeckError, SignalError
from limbeck.losses.storages import Dense
from limbeck.teachers.beside import Beside
from limbeck.teachers.calibrated import Calibrated
from limbeck.teachers.ensemble import WEIGHTS, EnsembleTeacher
from limbeck.teachers.member import OneOf
from limbeck.teachers.weighing import ByClass, ByConfidence, ByCorrectness, Fixed

FEW = replace(DATA, rows=torch.arange(30), supervised=torch.arange(40) < 12)
"""Twelve labels are seen, eighteen rows are learnt from without theirs, and ten are somebody else's."""
WAYS = [ByConfidence(), ByCorrectness(FEW)]
ways = pytest.mark.parametrize("way", WAYS, ids=["confidence", "correctness"])


def distribution(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def by_confidence(members, ids):
    each = [distribution(one[ids].double().numpy()) for one in members]
    raw = np.array([np.exp((p * np.log(p)).sum(-1)) for p in each]).T  # exp(-H)
    return raw / raw.sum(1, keepdims=True)


def by_correctness(members, ids, seen):
    found = []
    for row in ids.tolist():
        if row not in seen:
            found.append([1 / len(members)] * len(members))
            continue
        costs = [-np.log(distribution(one[row].double().numpy())[row % 10]) for one in members]
        total = sum(np.exp(costs))
        found.append([(1 - np.exp(one) / total) / (len(members) - 1) for one in costs])
    return np.array(found)


def weights(members, way, batch=BATCH):
    return EnsembleTeacher([Said(one) for one in members], way).observe(batch, frozenset({WEIGHTS}))[WEIGHTS]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_weights_are_those_of_the_formulas(count):
    members = [draws(40, 10, seed=seed, scale=1 + seed) for seed in range(count)]
    ids = BATCH.ids
    # float32 softmaxes of numbers to 20
    np.testing.assert_allclose(weights(members, ByConfidence()), by_confidence(members, ids), rtol=1e-4, atol=1e-6)
    found = weights(members, ByCorrectness(FEW))
    np.testing.assert_allclose(found, by_correctness(members, ids, set(range(12))), rtol=1e-4, atol=1e-6)


@ways
def test_the_mean_is_weighed_by_them(way):
    members = [draws(40, 10, seed=seed) for seed in (1, 2, 3)]
    found = shown(EnsembleTeacher([Said(one) for one in members], way)).double().softmax(-1)
    own = weights(members, way).double()
    expected = sum(own[:, [place]] * one[:24].double().softmax(-1) for place, one in enumerate(members))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(0, 1000), st.floats(0.01, 40))
@ways
def test_none_is_negative_and_a_rows_sum_is_one(way, count, seed, scale):
    found = weights([draws(40, 10, seed=seed + one, scale=scale) for one in range(count)], way)
    assert found.shape == (24, count)
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(1), torch.ones(24), rtol=0, atol=1e-6)


@ways
def test_of_one_it_says_what_that_one_says(way):
    one = draws(40, 10)
    for weighing in (way, Fixed([3.0]), None):
        teacher = EnsembleTeacher([Said(one)], weighing, names=["alone"])
        seen = teacher.observe(BATCH, frozenset({"logits", "alone.logits", WEIGHTS}))
        assert torch.equal(seen["logits"], one[BATCH.ids]), "bit for bit"
        assert torch.equal(seen["alone.logits"], one[BATCH.ids])
        assert torch.equal(seen[WEIGHTS], torch.ones(24, 1))


@ways
def test_teachers_that_agree_make_weights_irrelevant(way):
    same = draws(40, 10)
    found = weights([same] * 3, way)
    torch.testing.assert_close(found, torch.full((24, 3), 1 / 3))
    mean = shown(EnsembleTeacher([Said(same)] * 3, way)).softmax(-1)
    torch.testing.assert_close(mean, same[BATCH.ids].softmax(-1), rtol=0, atol=1e-6)


@ways
def test_the_order_of_the_teachers_says_nothing(way):
    members = [draws(40, 10, seed=seed) for seed in (1, 2)]
    assert torch.equal(weights(members, way).flip(1), weights(members[::-1], way))


def test_who_is_too_sure_counts_most_and_a_temperature_mends_it():
    modest, loud = draws(40, 10, seed=1, scale=1.0), 30 * draws(40, 10, seed=2)
    assert bool((weights([modest, loud], ByConfidence())[:, 1] > 0.6).all()), "right or wrong"
    calm = Calibrated(Said(loud), 1e4)
    found = EnsembleTeacher([Said(modest), calm], ByConfidence()).observe(BATCH, frozenset({WEIGHTS}))[WEIGHTS]
    assert bool((found[:, 1] < 0.5).all())
    torch.testing.assert_close(shown(calm), loud[BATCH.ids] / 1e4)
    assert torch.equal(shown(calm).argmax(-1), loud[BATCH.ids].argmax(-1)), "answers stay"
    assert calm.fingerprint != Calibrated(Said(loud), 2.0).fingerprint
    assert Calibrated(Said(loud, None), 2.0).fingerprint is None


def test_labels_that_may_not_be_seen_are_not():
    """A batch of a test part holds its labels; who was learnt from without a label has none."""
    members = [draws(40, 10, seed=seed) for seed in (1, 2)]
    test = replace(DATA, rows=torch.arange(30, 40))
    batch = test.batch(torch.arange(10, 40), torch.zeros(30, dtype=torch.int64))
    assert bool(batch.masks["supervised"].all())
    found = weights(members, ByCorrectness(FEW), batch)
    assert torch.equal(found[2:], torch.full((28, 2), 0.5))
    assert bool((found[:2] != 0.5).all())


def test_other_labels_are_another_teacher():
    """Else stored answers of old labels would be read."""
    more = replace(FEW, supervised=torch.arange(40) < 13)
    moved = replace(FEW, labels=FEW.labels.roll(1))
    assert len({ByCorrectness(one).fingerprint for one in (FEW, more, moved)}) == 3
    assert ByCorrectness(FEW).fingerprint == ByCorrectness(replace(FEW)).fingerprint


def test_a_row_whose_text_was_written_anew_keeps_no_label():
    own = replace(examples(40), rows=FEW.rows, supervised=FEW.supervised)
    altered = replace(own, keep_labels=False)
    altered.table.altered = lambda ids, views: ids < 3
    found = weights([draws(40, 10, seed=seed) for seed in (1, 2)], ByCorrectness(altered))
    assert torch.equal(found[:3], torch.full((3, 2), 0.5))
    assert bool((found[3:12] != 0.5).all())


def test_who_knows_a_rows_class_is_all_that_counts_and_alone_is_asked():
    """Row r is of class r mod 10."""
    groups, members = [(3, 1), (0, 2, 4, 5, 6, 7, 8, 9)], [Said(draws(40, 10, seed=seed)) for seed in (1, 2)]
    teacher = EnsembleTeacher(members, ByClass(groups, replace(FEW, supervised=torch.arange(40) < 24)))
    found = teacher.observe(BATCH, frozenset({"logits", WEIGHTS}))
    first = torch.isin(torch.arange(24) % 10, torch.tensor([1, 3]))
    assert torch.equal(found[WEIGHTS], torch.stack([first, ~first], 1).float())
    expected = torch.where(first[:, None], members[0].logits[:24], members[1].logits[:24])
    # a mean of one is its log-probabilities: the same to rounding but for a constant
    torch.testing.assert_close(found["logits"].softmax(-1), expected.softmax(-1), rtol=0, atol=1e-6)
    assert [one.rows for one in members] == [int(first.sum()), int((~first).sum())]


def test_of_a_row_without_a_label_nobody_is_known_to_know_the_class():
    """A batch of a test part holds its labels; they are not looked at."""
    test = replace(DATA, rows=torch.arange(30, 40))
    batch = test.batch(torch.arange(10, 40), torch.zeros(30, dtype=torch.int64))
    found = ByClass([(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)], FEW).of(batch)
    assert torch.equal(found[2:], torch.full((28, 2), 0.5))
    assert torch.equal(found[:2], torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


def test_other_classes_or_labels_make_other_teachers_of_classes():
    halves = [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]
    more = replace(FEW, supervised=torch.arange(40) < 13)
    ways = [ByClass(halves, FEW), ByClass(halves[::-1], FEW), ByClass(halves, more)]
    assert len({one.fingerprint for one in ways}) == 3
    assert ByClass(halves, replace(FEW)).fingerprint == ways[0].fingerprint


def test_a_teacher_beside_another_is_heard_by_name():
    one, other = Said(draws(40, 10, seed=1)), Said(draws(40, 10, seed=2))
    both = Beside(one, "before", other)
    seen = both.observe(BATCH, frozenset({"logits", "before.logits"}))
    assert torch.equal(seen["logits"], one.logits[:24])
    assert torch.equal(seen["before.logits"], other.logits[:24])
    both.observe(BATCH, frozenset({"before.logits"}))
    assert (one.rows, other.rows) == (24, 48), "who is not needed is not asked"
    assert both.provides.lacking({"before.logits", "logits", "before.body"}) == {"before.body"}
    others = [Beside(one, "after", other), Beside(one, "before", Said(other.logits, "another"))]
    assert len({teacher.fingerprint for teacher in (both, *others)}) == 3
    assert Beside(one, "before", Said(draws(40, 10), None)).fingerprint is None


def test_what_cannot_be_weighed_by_what_is_said():
    with pytest.raises(LimbeckError, match="mixup a row has two"):
        ByCorrectness(replace(FEW, mixup=0.4))
    with pytest.raises(LimbeckError, match="Teachers of some classes each look up the label of a row, and with mixup"):
        ByClass([range(10)], replace(FEW, mixup=0.4))
    with pytest.raises(LimbeckError, match="'multi-label': give their weights as numbers"):
        EnsembleTeacher([Said(draws(40, 4))], ByConfidence(), task=MultiLabel())
    whole = Said(Dense(draws(40, 10)))
    with pytest.raises(SignalError, match="leave the member's 'temperature' out"):
        Calibrated(whole, 2.0).observe(BATCH, LOGITS)


def test_members_keep_their_names_and_can_be_asked_alone():
    one, other = Said(draws(40, 10, seed=1)), Said(draws(40, 10, seed=2))
    both = EnsembleTeacher([one, other], names=["cat", "dog"])
    seen = both.observe(BATCH, frozenset({"dog.logits", "logits"}))
    assert torch.equal(seen["dog.logits"], other.logits[BATCH.ids])
    assert (one.rows, other.rows) == (24, 24), "each is asked once"
    heard = [Said(one.logits), Said(other.logits)]
    EnsembleTeacher(heard, ByConfidence(), names=["cat", "dog"]).observe(BATCH, frozenset({"dog.logits", "logits"}))
    assert [each.rows for each in heard] == [24, 24], "also where it is heard before it is weighed"
    alone = OneOf(both, "cat")
    assert torch.equal(shown(alone), one.logits[BATCH.ids])
    assert other.rows == 24, "and the other is left alone"
    assert alone.provides == one.provides
    assert len({alone.fingerprint, OneOf(both, "dog").fingerprint, both.fingerprint}) == 3
    assert OneOf(EnsembleTeacher([one, Said(draws(40, 10), None)]), "teacher-1").fingerprint is None
    assert EnsembleTeacher([one, other], names=["dog", "cat"]).fingerprint != both.fingerprint
    assert both.provides.lacking({"logits", "cat.logits", WEIGHTS}) == frozenset()
    assert both.provides.lacking({"cat", "cat.body", "cow.logits", "cat."}) == {"cat", "cat.body", "cow.logits", "cat."}
    with pytest.raises(SignalError, match="name the teacher whose signal it is: cat, dog"):
        both.observe(BATCH, frozenset({"body"}))
    with pytest.raises(LimbeckError, match="each needs a name of its own"):
        EnsembleTeacher([one, other], names=["cat", "cat"])


def test_layers_of_a_member_that_is_a_model_are_shown():
    from tests.fakes.rows import local

    both = EnsembleTeacher([local(), Said(draws(40, 10))], names=["net", "file"])
    assert both.provides.lacking({"net.body", "net.head:in"}) == frozenset()
    assert both.provides.lacking({"file.body"}) == {"file.body"}
    body = both.observe(examples(40).batch(torch.arange(5), torch.zeros(5, dtype=torch.int64)), frozenset({"net.body"}))
    assert body["net.body"].shape == (5, 64)
