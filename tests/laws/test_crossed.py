"""Losses between models with different tokenizers: what they see, what they cannot see, and where they are zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.divergences import CASES

from limbeck.data.alignment import chunks
from limbeck.losses.crossed import (
    alm,
    binary_kl_limit,
    chunk_log_likelihoods,
    chunk_mask,
    overlap,
    token_log_probabilities,
    uld,
)
from limbeck.losses.divergences import FLOOR, ForwardKl, JensenShannon, dense
from limbeck.losses.offer import Offer

# float64, sums over at most 40 terms of at most 1: exact to some 1e-15 each
TIGHT = 1e-12
law = settings(max_examples=50, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def drawn(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def order(seed, size):
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def gradient(loss, student, *rest, **settings):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest, **settings).sum(), student)[0]


@law
@given(seeds, st.integers(2, 20), st.integers(2, 20), st.sampled_from([0.1, 3.0, 30.0]))
def test_uld_is_between_0_and_2_and_knows_no_order_of_tokens(seed, ours, theirs, scale):
    student, teacher = scale * drawn(seed, 3, ours), scale * drawn(seed + 1, 3, theirs)
    value = uld(student, teacher)
    assert value.shape == (3,)
    assert value.min() >= 0
    assert value.max() <= 2 + TIGHT
    renamed = uld(student[:, order(seed, ours)], teacher[:, order(seed + 2, theirs)])
    assert torch.allclose(value, renamed, atol=TIGHT)


@law
@given(seeds, st.integers(2, 12))
def test_uld_is_zero_although_every_token_is_wrong(seed, size):
    teacher = drawn(seed, 4, size)
    wrong = teacher.roll(1, -1)
    assert uld(wrong, teacher).abs().max() < TIGHT
    assert (
        gradient(uld, teacher, teacher).abs().max() == 0
    )  # of the renamed ones rounding decides the slope, as at any |x|
    assert (wrong.argmax(-1) != teacher.argmax(-1)).all()


@law
@given(seeds, st.integers(2, 20), st.integers(2, 20), st.integers(1, 20))
def test_the_largest_alone_bound_uld_from_below_and_are_exact_at_the_smaller_vocabulary(seed, ours, theirs, top):
    student, teacher = 2 * drawn(seed, 3, ours), 2 * drawn(seed + 1, 3, theirs)
    every, some = uld(student, teacher), uld(student, teacher, top=top)
    q, p = student.softmax(-1).sort(-1).values, teacher.softmax(-1).sort(-1).values
    left = torch.minimum(q[:, : max(ours - top, 0)].sum(-1), p[:, : max(theirs - top, 0)].sum(-1))
    assert (some <= every + TIGHT).all()
    assert (every <= some + 2 * left + TIGHT).all()
    assert torch.allclose(uld(student, teacher, top=min(ours, theirs)), every, atol=TIGHT)


@pytest.mark.parametrize("top", [None, 3])
def test_uld_moves_the_student_to_the_teachers_profile(top):
    student, teacher = drawn(0, 2, 9), 2 * drawn(1, 2, 12)
    first = uld(student, teacher, top).sum()
    for step in range(150):
        student = student - 0.5 / (1 + step / 10) * gradient(uld, student, teacher, top)
    assert uld(student, teacher, top).sum() < 0.3 * first  # what the teacher's other 3 tokens have cannot be reached


def partly(seed, ours, theirs, count):
    shared = torch.full((ours,), -1)
    shared[order(seed, ours)[:count]] = order(seed + 1, theirs)[:count]
    return shared


@pytest.mark.parametrize("name", CASES)
def test_overlap_of_one_vocabulary_is_the_divergence_itself(name):
    _, kind, parameters = CASES[name]
    divergence, student, teacher = kind(*parameters), 2 * drawn(0, 2, 3, 11), 2 * drawn(1, 2, 3, 11)
    every = dense(divergence, student, teacher)
    assert torch.allclose(overlap(student, teacher, torch.arange(11), divergence), every, atol=TIGHT)
    new = order(2, 11)
    assert torch.allclose(overlap(student[..., new], teacher, new, divergence), every, atol=TIGHT)


@pytest.mark.parametrize("name", CASES)
def test_overlap_is_not_negative_zero_at_a_match_and_below_the_whole(name):
    _, kind, parameters = CASES[name]
    divergence, shared = kind(*parameters), torch.tensor([3, -1, 0, 2, -1, -1])
    for seed in range(20):
        student, teacher = 3 * drawn(seed, 4, 6), 3 * drawn(seed + 50, 4, 6)
        value = overlap(student, teacher, shared, divergence)
        assert value.shape == (4,)
        assert value.min() >= -TIGHT
        if divergence.reads <= Offer.OUTCOMES:
            finer = torch.tensor([3, 1, 0, 2, 5, 4])  # any way to pair the others as well
            assert (value <= dense(divergence, student, teacher[:, finer]) + TIGHT).all()
        same = torch.tensor([2, -1, 3, 0, -1, -1])  # student 0 -> teacher 2 and so on, with masses that agree
        matched = teacher[:, [2, 1, 3, 0, 4, 5]]
        assert overlap(matched, teacher, same, divergence).abs().max() < TIGHT
        if name != "total-variation":  # its slope jumps where both are equal
            assert gradient(overlap, matched, teacher, same, divergence).abs().max() < TIGHT


def test_overlap_sees_the_token_that_uld_does_not():
    teacher = torch.tensor([[4.0, 0.0, 1.0]])
    shared = torch.tensor([0, 1, -1])
    assert uld(teacher[:, [1, 0, 2]], teacher) == 0
    assert overlap(teacher[:, [1, 0, 2]], teacher, shared, ForwardKl()) > 1


def test_a_side_without_other_tokens_and_impossible_tokens_leave_numbers():
    student, teacher = drawn(0, 3, 4), drawn(1, 3, 6)
    teacher[:, 0] = -torch.inf
    shared = torch.tensor([0, 1, 2, 3])
    with torch.autograd.set_detect_anomaly(True):
        slope = gradient(overlap, student, teacher, shared, JensenShannon(0.5))
    assert slope.isfinite().all()
    assert overlap(student, teacher, shared, JensenShannon(0.5)).max() <= 0.6932
    missing = teacher.softmax(-1)[:, 4:].sum(-1)  # the student can never say it: FLOOR, not infinity
    assert (overlap(student, teacher, shared, ForwardKl()) > -missing * FLOOR / 2).all()


def test_likelihoods_belong_to_the_token_that_is_predicted():
    ids = torch.tensor([[5, 2, 7, 1], [3, 3, 0, 6]])
    logits = 20.0 * torch.nn.functional.one_hot(ids.roll(-1, 1), 8).double()  # position i is sure of token i + 1
    found = token_log_probabilities(logits, ids)
    assert found.shape == ids.shape
    assert found.abs().max() < 1e-7
    assert token_log_probabilities(logits.roll(1, 1), ids).max(dim=1).values.tolist() == [0, 0]
    assert token_log_probabilities(logits.roll(1, 1), ids)[:, 1:].mean() < -10  # one position off: nothing was foreseen
    for at in range(1, 4):
        slope = gradient(lambda z, at=at: token_log_probabilities(z, ids)[:, at], logits)
        assert slope.abs().sum((0, 2)).nonzero().flatten().tolist() == [at - 1]


def test_one_token_chunks_are_tokens():
    student, teacher, ids = drawn(0, 3, 5, 7), drawn(1, 3, 5, 7), order(2, 15).reshape(3, 5) % 7
    ends = torch.tensor([[-1, 1, 3, 4, 6], [-1, 2, 3, -1, 9], [1, 2, 5, 6, 7]])
    ours, theirs = chunks(ends, ends)
    sides = [token_log_probabilities(logits, ids) for logits in (student, teacher)]
    found = [chunk_log_likelihoods(side, which, 5) for side, which in zip(sides, (ours, theirs), strict=True)]
    mask = chunk_mask(ours, theirs, 5)
    assert mask.sum(1).tolist() == [4, 3, 4]  # nothing predicts the first token of the last row
    assert not mask[2, 0]
    spoken = (ours >= 0) & (torch.arange(5) > 0)
    assert torch.equal(alm(*found)[mask], alm(*sides)[spoken])


def test_a_chunk_that_either_side_begins_without_a_prediction_does_not_count():
    begun, behind = torch.tensor([[-1, 0, 0, 1]]), torch.tensor([[0, 1, -1, -1]])
    assert chunk_mask(begun, behind, 3).tolist() == chunk_mask(behind, begun, 3).tolist() == [[False, True, False]]
    assert chunk_mask(begun, begun, 3).tolist() == [[True, True, False]]


@law
@given(seeds, st.integers(1, 6))
def test_chunks_together_are_as_probable_as_their_tokens(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    values = -torch.rand(rows, 9, generator=generator, dtype=torch.float64).requires_grad_()
    numbers = (torch.randint(0, 2, (rows, 9), generator=generator).cumsum(1) - 1).clamp_max(5)
    found = chunk_log_likelihoods(values, numbers, 7)
    assert found.shape == (rows, 7)
    assert torch.allclose(found.sum(1), torch.where(numbers >= 0, values, 0).sum(1), atol=TIGHT)
    assert (found[:, 6] == 0).all()
    assert found.max() <= 0


def test_a_token_without_a_chunk_may_have_any_likelihood():
    values = torch.tensor([[-torch.inf, -1.0, torch.nan]], requires_grad=True)
    found = chunk_log_likelihoods(values, torch.tensor([[-1, 0, -1]]), 1)
    found.sum().backward()
    assert found.tolist() == [[-1]]
    assert values.grad.tolist() == [[0, 1, 0]]


PAIRS = torch.cartesian_prod(*2 * [-torch.tensor([0.0, 1e-9, 1e-4, 0.3, 1.0, 7.0, 200.0, 1e4], dtype=torch.float64)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 100.0, 1e5, None])
def test_alm_is_finite_not_negative_and_pulls_towards_the_teacher(dtype, temperature):
    loss = binary_kl_limit if temperature is None else lambda q, p: alm(q, p, temperature)
    q, p = PAIRS.to(dtype).unbind(1)
    value = loss(q, p)
    with torch.autograd.set_detect_anomaly(True):
        slope = gradient(loss, q, p)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    # rounding of two summands, each at least 0, that are as small as the gap of their logarithms
    assert value.min() >= -(torch.finfo(dtype).eps ** 2)
    assert (slope * (q - p)).min() > -1e-30  # a teacher below e^-80 is held there
    apart = (q - p).abs() > 1e-3
    assert (value[apart] > 0).all()
    assert (slope[apart & (p > -60)] != 0).all()  # a student that is too sure still has a gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 100.0, None])
def test_alm_is_zero_with_a_zero_gradient_where_both_are_equal(dtype, temperature):
    loss = binary_kl_limit if temperature is None else lambda q, p: alm(q, p, temperature)
    same = PAIRS[:, 0].to(dtype)
    assert loss(same, same).abs().max() < 1e-30  # beyond e^-80 the teacher's side is held, below any float32 sum
    assert gradient(loss, same, same).abs().max() < 1e-30


@law
@given(st.floats(-50, -1e-6), st.floats(-50, -1e-6))
def test_alm_times_a_large_temperature_is_its_limit(q, p):
    q, p = torch.tensor([q], dtype=torch.float64), torch.tensor([p], dtype=torch.float64)
    # the next term of the expansion is smaller by |P| / t and |Q| / t, at most 5e-7 here
    assert torch.allclose(1e8 * alm(q, p, 1e8), binary_kl_limit(q, p), rtol=1e-5, atol=1e-12)


def test_the_teacher_has_no_gradient_and_bad_settings_are_named():
    student, teacher = -drawn(0, 4).abs(), (-drawn(1, 4).abs()).requires_grad_()
    for value in (alm(student, teacher), binary_kl_limit(student, teacher), uld(student, teacher)):
        assert not value.requires_grad
    assert not overlap(student, teacher, torch.arange(4), ForwardKl()).requires_grad
    with pytest.raises(ValueError, match="temperature is 0"):
        alm(student, student, 0)
    with pytest.raises(ValueError, match="top is 0"):
        uld(student, student, top=0)
    with pytest.raises(ValueError, match=r"shared is \(3,\), and the student has 4 logits"):
        overlap(student, student, torch.arange(3), ForwardKl())
    with pytest.raises(ValueError, match="names token 4, and the teacher has 4"):
        overlap(student, student, torch.tensor([0, 1, 2, 4]), ForwardKl())
    with pytest.raises(ValueError, match="names the teacher's token 1 more than once"):
        overlap(student, student, torch.tensor([1, 1, -1, 2]), ForwardKl())
