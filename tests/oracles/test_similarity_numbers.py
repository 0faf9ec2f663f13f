"""Debiased linear CKA against NumPy in float64, from the unbiased estimator of HSIC of Song et al. 2012."""

import itertools

import numpy as np
import pytest
import torch

from limbeck.losses.similarity import linear_cka

# float64 throughout; sums of n^2 <= 1600 products that differ in their order, over a HSIC that is not near zero
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def hsic(x, y):
    """[tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3)), the kernels without their diagonals."""
    n = len(x)
    k, m, one = np.zeros((n, n)), np.zeros((n, n)), np.ones(n)
    for i in range(n):
        for j in range(n):
            if i != j:
                k[i, j] = sum(a * b for a, b in zip(x[i], x[j], strict=True))
                m[i, j] = sum(a * b for a, b in zip(y[i], y[j], strict=True))
    whole = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (whole - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def cka(x, y):
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def centred(x):
    return x - x.mean(0)


@pytest.mark.parametrize(
    ("rows", "ours", "theirs"), [(4, 3, 3), (5, 1, 4), (7, 6, 2), (40, 5, 9), (12, 30, 3)], ids=str
)
@pytest.mark.parametrize("mixed", [0.0, 1.0])
def test_against_the_u_statistic(rows, ours, theirs, mixed):
    draw = np.random.default_rng(rows + ours)
    x = draw.normal(size=(rows, ours))
    y = draw.normal(size=(rows, theirs)) + mixed * x @ draw.normal(size=(ours, theirs))
    # with and without the columns centred: the estimator does not see a shift
    for a, b in ((x, y), (centred(x), centred(y)), (x + 3, y - 1)):
        np.testing.assert_allclose(linear_cka(*map(torch.from_numpy, (x, y))).item(), cka(a, b), **CLOSE)


def test_four_examples_by_hand():
    # four points on a line, 0 0 1 1: the kernel without its diagonal has the one entry K_34 = 1 (twice).
    # tr(KK) = 2, 1'K1 = 2, 1'KK1 = 2: HSIC = (2 + 4/6 - 2) / 4 = 1/6
    # and 0 1 0 1 has L_24 = 1: tr(KL) = 0, 1'KL1 = 1: HSIC = (0 + 4/6 - 1) / 4 = -1/12: CKA = -1/2
    x, y = (torch.tensor([values]).T for values in ([0.0, 0, 1, 1], [0.0, 1, 0, 1]))
    assert hsic(x.numpy(), x.numpy()) == pytest.approx(1 / 6)
    assert linear_cka(x, y).item() == pytest.approx(-1 / 2, abs=1e-14)
    assert linear_cka(x, x).item() == pytest.approx(1, abs=1e-14)


def test_the_estimate_of_hsic_is_unbiased():
    """Over all quadruples of a population, the mean of the estimate is the U-statistic of the whole."""
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(7, 2)), draw.normal(size=(7, 3))
    parts = [hsic(x[list(four)], y[list(four)]) for four in itertools.combinations(range(7), 4)]
    assert np.mean(parts) == pytest.approx(hsic(x, y), rel=1e-9)


def test_features_wider_than_the_examples_are_many_are_not_alike_by_chance():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(64, 512)), draw.normal(size=(64, 512))
    biased = np.sum((centred(x).T @ centred(y)) ** 2) / np.sqrt(
        np.sum((centred(x).T @ centred(x)) ** 2) * np.sum((centred(y).T @ centred(y)) ** 2)
    )
    assert biased > 0.85
    # the deviation of a correlation over 64 * 63 / 2 pairs is 1 / sqrt(2016) = 0.022; four of them
    assert abs(linear_cka(torch.from_numpy(x), torch.from_numpy(y)).item()) < 0.09
