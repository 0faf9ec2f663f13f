"""Laws of the hard answers that a student gives itself, and of the term that learns from them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.test_term_contract import batch_of

from limbeck.errors import SettingError
from limbeck.losses.confidence import apportioned, confidence, hardened
from limbeck.losses.responses import soft_cross_entropy
from limbeck.objective import Confidence, Objective
from limbeck.objective.gates import Gate
from limbeck.objective.schedules import Place

CASES = settings(derandomize=True, deadline=None, max_examples=60)


def drawn(rows, classes, seed):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@CASES
@given(st.integers(1, 40), st.integers(2, 8), st.integers(0, 1000), st.floats(0.1, 6))
def test_the_batch_has_as_many_of_each_class_as_expected(rows, classes, seed, scale):
    prior = (scale * drawn(1, classes, seed + 1)[0]).softmax(-1)
    found = hardened(scale * drawn(rows, classes, seed), prior)
    places = apportioned(prior, rows)
    assert torch.equal(torch.bincount(found, minlength=classes), places)
    assert int(places.sum()) == rows
    assert ((places - rows * prior).abs() < 1).all(), "no class is a whole row away from its share"


@CASES
@given(st.integers(2, 30), st.integers(2, 6), st.integers(0, 1000))
def test_each_class_has_a_threshold_and_a_row_the_likeliest_class_that_it_reaches(rows, classes, seed):
    logits, prior = drawn(rows, classes, seed), drawn(1, classes, seed + 7)[0].softmax(-1)
    found, p = hardened(logits, prior), logits.softmax(-1)
    held = p[torch.arange(rows), found]
    thresholds = torch.full((classes,), torch.inf, dtype=torch.float64).scatter_reduce(0, found, held, "amin")
    reached = torch.where(p >= thresholds, p, -1.0)
    assert torch.equal(reached.argmax(1), found)


def test_answers_that_fit_the_prior_stay_as_they_are():
    logits = drawn(24, 4, 5)
    own = logits.argmax(1)
    prior = torch.bincount(own, minlength=4) / 24
    assert torch.equal(hardened(logits, prior), own)
    assert torch.equal(hardened(logits), own)


def test_a_class_that_nobody_expects_is_never_an_answer_and_one_that_all_do_always():
    logits = drawn(9, 3, 1)
    assert hardened(logits, torch.tensor([0.0, 0.5, 0.5])).min() == 1
    assert hardened(logits, torch.tensor([0.0, 0.0, 1.0])).tolist() == [2] * 9


@pytest.mark.parametrize("worst", [torch.nan, torch.inf, -torch.inf])
def test_it_comes_to_an_end_whatever_it_is_given(worst):
    logits = torch.zeros(6, 3, dtype=torch.float64)
    assert torch.bincount(hardened(logits, torch.ones(3))).tolist() == [2, 2, 2]
    logits[1], logits[2, 0] = worst, worst
    assert torch.bincount(hardened(logits, torch.ones(3)), minlength=3).tolist() == [2, 2, 2]
    barred = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert hardened(barred, torch.tensor([0.0, 0.0, 1.0])).tolist() == [2], "the only place there is"


def test_with_no_share_of_its_own_it_is_the_soft_cross_entropy():
    student, teacher = drawn(8, 5, 0), drawn(8, 5, 1)
    assert torch.equal(confidence(student, teacher, 0.0, 3.0), soft_cross_entropy(student, teacher, 3.0).mean())


def test_no_rows_and_other_shapes():
    nothing = torch.zeros(0, 3, requires_grad=True)
    assert confidence(nothing, torch.zeros(0, 3), 0.5).item() == 0
    with pytest.raises(ValueError, match=r"one shape \[B, C\]"):
        confidence(torch.zeros(2, 3), torch.zeros(2, 4), 0.5)


def test_the_students_share_rises_over_the_first_fifth():
    student, teacher = {"logits": drawn(6, 5, 0)}, {"logits": drawn(6, 5, 1)}
    objective = Objective([Confidence()])

    def at(step):
        objective.at(Place(step, 101))
        return float(objective(student, teacher, batch_of())[0])

    halves = [float(confidence(student["logits"], teacher["logits"], alpha)) for alpha in (0.0, 0.25, 0.5)]
    assert [at(0), at(10), at(20), at(100)] == pytest.approx([*halves, halves[-1]], rel=1e-12)


@pytest.mark.parametrize("alpha", [1.5, -0.1, {"schedule": "warm-up", "value": 2.0}])
def test_shares_are_from_0_to_1(alpha):
    with pytest.raises(SettingError, match=r"0 to 1|not negative"):
        Confidence(alpha=alpha)


def test_it_takes_no_gate_as_it_counts_the_answers_of_a_batch():
    with pytest.raises(SettingError, match="takes no gate"):
        Confidence(gate=Gate(by="teacher-confidence"))
