"""The confidence loss and its hard answers, against loops in float64 written from the paper's formulas."""

import math

import pytest
import torch

from limbeck.losses.confidence import apportioned, confidence, hardened

# Sums over at most 40 rows of 6 classes in float64, 1e-15 each, times T^2 <= 16.
CLOSE = 1e-12


def softmax(z, t=1.0):
    e = [math.exp((v - max(z)) / t) for v in z]
    return [v / sum(e) for v in e]


def slow_places(prior, count):
    shares = [one / sum(prior) * count for one in prior]
    places = [math.floor(one + 1e-9) for one in shares]
    rest = sorted(range(len(prior)), key=lambda c: -(round(shares[c] - places[c], 9)))
    for c in rest[: count - sum(places)]:
        places[c] += 1
    return places


def slow_hard(logits, prior):
    """The surest pair of row and class first, as long as the class has places."""
    left = slow_places(prior, len(logits))
    pairs = sorted((-p, row, c) for row, z in enumerate(logits) for c, p in enumerate(softmax(z)))
    found = {}
    for _, row, c in pairs:
        if row not in found and left[c]:
            found[row], left[c] = c, left[c] - 1
    return [found[row] for row in range(len(logits))]


def slow_confidence(student, teacher, alpha, t, keep_prior):
    weak = [softmax(z) for z in teacher]
    prior = [sum(p[c] for p in weak) / len(weak) for c in range(len(weak[0]))]
    hard = slow_hard(student, prior) if keep_prior else [z.index(max(z)) for z in student]
    total = 0.0
    for ours, theirs, own in zip(student, teacher, hard, strict=True):
        p, q = softmax(theirs, t), softmax(ours, t)
        taught = -t * t * sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        total += (1 - alpha) * taught - alpha * math.log(softmax(ours)[own])
    return total / len(student)


def sides(rows, classes, seed):
    draw = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(rows, classes, generator=draw, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (7, 2), (16, 5), (40, 6), (5, 12)])
@pytest.mark.parametrize("keep_prior", [True, False])
def test_confidence(shape, keep_prior):
    for seed in range(4):
        student, teacher = sides(*shape, seed)
        for alpha, t in ((0.0, 1.0), (0.5, 1.0), (0.75, 4.0), (1.0, 2.0)):
            found = confidence(student, teacher, alpha, t, keep_prior)
            expected = slow_confidence(student.tolist(), teacher.tolist(), alpha, t, keep_prior)
            assert found.item() == pytest.approx(expected, rel=CLOSE, abs=CLOSE)


@pytest.mark.parametrize("seed", range(10))
def test_hard_answers_are_the_surest_first(seed):
    student, teacher = sides(30, 4, seed)
    prior = (teacher * (1 + seed)).softmax(-1).mean(0)  # from even to hardly any of some class
    assert hardened(student, prior).tolist() == slow_hard(student.tolist(), prior.tolist())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.36, 0.5, 0.9, 1.0])
def test_of_two_classes_the_threshold_is_a_quantile_as_in_the_paper(share):
    student, _ = sides(50, 2, 3)
    own = student.softmax(-1)[:, 0]
    first = round(50 * share)
    above = own.argsort(descending=True)[:first]
    expected = torch.ones(50, dtype=torch.int64)
    expected[above] = 0
    assert torch.equal(hardened(student, torch.tensor([share, 1 - share])), expected)


def test_the_gradient_is_that_of_constant_targets():
    student, teacher = sides(12, 3, 0)
    leaf, theirs = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    confidence(leaf, theirs, 0.4).backward()
    prior = teacher.softmax(-1).mean(0)
    hard = torch.eye(3, dtype=torch.float64)[hardened(student, prior)]
    target = 0.6 * teacher.softmax(-1) + 0.4 * hard
    assert torch.allclose(leaf.grad, (student.softmax(-1) - target) / 12, atol=1e-14)
    assert theirs.grad is None


def test_places_worked_by_hand():
    assert apportioned(torch.tensor([0.5, 0.3, 0.2]), 10).tolist() == [5, 3, 2]
    assert apportioned(torch.tensor([0.55, 0.25, 0.2]), 10).tolist() == [6, 2, 2]  # halves: the earlier class
    assert apportioned(torch.tensor([1.0, 1.0, 1.0]), 2).tolist() == [1, 1, 0]
    assert apportioned(torch.tensor([0.0, 1.0]), 3).tolist() == [0, 3]
