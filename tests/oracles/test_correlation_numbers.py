"""DIST and standardised logits against loops in float64 written from the papers' formulas."""

import math

import numpy as np
import pytest
import torch

from limbeck.losses.correlation import dist, standardize_logits

# Float64 sums over at most 12 terms; the variance of a column at T = 20 is some 1e-4 of its squared mean, and so loses
# four digits of the sixteen, in the oracle too.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def softmax(z, t):
    e = [math.exp((v - max(z)) / t) for v in z]
    return [v / sum(e) for v in e]


def pearson(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    together = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread_a, spread_b = sum((x - mean_a) ** 2 for x in a), sum((y - mean_b) ** 2 for y in b)
    return together / math.sqrt(spread_a * spread_b)


def slow_dist(student, teacher, beta, gamma, t):
    p, q = [softmax(z, t) for z in teacher.tolist()], [softmax(z, t) for z in student.tolist()]
    inter = 1 - sum(pearson(a, b) for a, b in zip(p, q, strict=True)) / len(p)
    columns = list(zip(zip(*p, strict=True), zip(*q, strict=True), strict=True))
    intra = 1 - sum(pearson(a, b) for a, b in columns) / len(columns) if len(p) > 1 else 0.0
    return t * t * (beta * inter + gamma * intra)


def slow_standard(logits):
    values = []
    for z in logits.tolist():
        mean = sum(z) / len(z)
        std = math.sqrt(sum((v - mean) ** 2 for v in z) / len(z))
        values.append([(v - mean) / (std + 1e-7) for v in z])
    return np.array(values)


@pytest.fixture(params=[(1, 3), (2, 2), (7, 3), (5, 12)], ids=str)
def pair(request):
    draw = np.random.default_rng(request.param)
    return draw.normal(size=request.param) * 2, draw.normal(size=request.param) * 2


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0])
@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (2.0, 0.0), (0.0, 3.0)])
def test_dist(pair, beta, gamma, t):
    student, teacher = map(torch.from_numpy, pair)
    value = dist(student, teacher, beta, gamma, t)
    assert value.shape == ()
    np.testing.assert_allclose(value.numpy(), slow_dist(*pair, beta, gamma, t), **CLOSE)


def test_the_defaults_are_the_papers(pair):
    np.testing.assert_allclose(dist(*map(torch.from_numpy, pair)).numpy(), slow_dist(*pair, 1, 1, 1), **CLOSE)


def test_dist_worked_by_hand():
    # p = (1/6, 2/6, 3/6), q = (2/6, 1/6, 3/6): centred in sixths (-1, 0, 1) and (0, -1, 1), so rho = 1 / 2
    teacher = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64).log()
    student = torch.tensor([[2.0, 1.0, 3.0]], dtype=torch.float64).log()
    assert dist(student, teacher).item() == pytest.approx(0.5, rel=1e-14)
    # two rows and two classes, the second row the first one's mirror: rho = 1 in rows and columns, or -1 if exchanged
    teacher, student = (torch.tensor([[a, 4 - a], [4 - a, a]], dtype=torch.float64).log() for a in (1.0, 1.5))
    assert dist(student, teacher).item() == pytest.approx(0, abs=1e-14)
    assert dist(student.flip(0), teacher, 2.0, 3.0).item() == pytest.approx(2 * 2 + 2 * 3, rel=1e-14)


def test_standardised_logits(pair):
    for z in pair:
        np.testing.assert_allclose(standardize_logits(torch.from_numpy(z)).numpy(), slow_standard(z), **CLOSE)


@pytest.mark.parametrize("size", [1e-9, 1e-7, 1e-3])
def test_the_small_number_is_added_to_the_standard_deviation(pair, size):
    z = pair[0] * size
    np.testing.assert_allclose(standardize_logits(torch.from_numpy(z)).numpy(), slow_standard(z), **CLOSE)


def test_standardised_logits_worked_by_hand():
    # mean 2, variance ((-2)^2 + 0 + 0 + 2^2) / 4 = 2; dividing by C - 1 would give 8 / 3
    z = torch.tensor([[0.0, 2.0, 2.0, 4.0]], dtype=torch.float64)
    expected = np.array([[-2.0, 0.0, 0.0, 2.0]]) / (math.sqrt(2) + 1e-7)
    np.testing.assert_allclose(standardize_logits(z).numpy(), expected, rtol=1e-14)
