"""Losses between models with different tokenizers, against loops written from the formulas, some in fifty digits."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from limbeck.losses.crossed import (
    alm,
    binary_kl_limit,
    chunk_log_likelihoods,
    overlap,
    token_log_probabilities,
    uld,
)
from limbeck.losses.divergences import ForwardKl, ReverseKl, TotalVariation

# float64 on both sides, at most 30 terms of at most 30
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def softmax(z):
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def drawn(seed, *shape):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_uld(student, teacher, top=None):
    values = []
    for zs, zt in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = (sorted(softmax(z), reverse=True) for z in (zs, zt))
        size = max(len(q), len(p))
        q, p = (side + [0.0] * (size - len(side)) for side in (q, p))
        kept = size if top is None else top
        left = abs(sum(p[kept:]) - sum(q[kept:]))
        values.append(sum(abs(a - b) for a, b in zip(p[:kept], q[:kept], strict=True)) + left)
    return np.array(values)


def slow_overlap(student, teacher, shared, term):
    values = []
    for zs, zt in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(zs), softmax(zt)
        pairs = [(q[own], p[other]) for own, other in enumerate(shared) if other >= 0]
        others_q = sum(v for own, v in enumerate(q) if shared[own] < 0)
        others_p = sum(v for other, v in enumerate(p) if other not in shared)
        values.append(sum(term(a, b) for a, b in [*pairs, (others_q, others_p)]))
    return np.array(values)


def slow_alm(q, p, temperature):
    """The binary KL in fifty digits, where nothing cancels."""
    with localcontext() as context:
        context.prec = 50
        a, b = (Decimal(p) / Decimal(temperature)).exp(), (Decimal(q) / Decimal(temperature)).exp()
        return float(a * (a.ln() - b.ln()) + (1 - a) * ((1 - a).ln() - (1 - b).ln()))


def slow_limit(q, p):
    with localcontext() as context:
        context.prec = 50
        ours, theirs = -Decimal(q), -Decimal(p)
        return float(ours - theirs + theirs * (theirs / ours).ln())


@pytest.mark.parametrize("sizes", [(7, 7), (5, 9), (9, 5)])
@pytest.mark.parametrize("top", [None, 1, 4, 6])
def test_uld(sizes, top):
    student, teacher = drawn(0, 6, sizes[0]), drawn(1, 6, sizes[1])
    kept = None if top is None else min(top, *sizes)
    np.testing.assert_allclose(uld(student, teacher, top).numpy(), slow_uld(student, teacher, kept), **CLOSE)


def test_uld_by_hand():
    student, teacher = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.1, 0.7, 0.1, 0.1]).log()
    assert uld(student, teacher).item() == pytest.approx(0.2 + 0.2 + 0.1 + 0.1, abs=1e-6)  # float32
    assert uld(student, teacher, top=1).item() == pytest.approx(0.2 + 0.2, abs=1e-6)


@pytest.mark.parametrize(
    ("divergence", "term"),
    [
        (ForwardKl(), lambda q, p: p * math.log(p / q)),
        (ReverseKl(), lambda q, p: q * math.log(q / p)),
        (TotalVariation(), lambda q, p: abs(q - p) / 2),
    ],
)
def test_overlap(divergence, term):
    student, teacher, shared = drawn(2, 6, 7), drawn(3, 6, 9), [8, -1, 0, 4, -1, 1, -1]
    found = overlap(student, teacher, torch.tensor(shared), divergence)
    np.testing.assert_allclose(found.numpy(), slow_overlap(student, teacher, shared, term), **CLOSE)


@pytest.mark.parametrize("temperature", [1.0, 10.0, 100.0, 1e4])
def test_alm(temperature):
    pairs = [(q, p) for q in (-1e-4, -0.03, -0.7, -5.0, -40.0) for p in (-2e-4, -0.031, -0.7, -6.0, -39.0)]
    found = alm(*(torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True)), temperature)
    # the epsilon of float64 moves a log-likelihood of 1e-4 by 2e-12 of it; rounding is magnified by 1 / relative gap, at most 30
    np.testing.assert_allclose(found, [slow_alm(q, p, temperature) for q, p in pairs], rtol=1e-10, atol=1e-18)


def test_alm_of_nearly_equal_likelihoods_keeps_its_digits_in_float32():
    q, p = torch.tensor([-1.001, -0.1001, -8.01]), torch.tensor([-1.0, -0.1, -8.0])
    expected = [slow_alm(*pair, 100.0) for pair in zip(q.tolist(), p.tolist(), strict=True)]
    # gaps of 1e-3 of values with 24 bits leave 4 digits of the gap, and its square counts; by logarithms none is left
    np.testing.assert_allclose(alm(q, p).numpy(), expected, rtol=2e-3)


def test_alm_is_the_papers_cross_entropy_less_the_teachers_entropy():
    q, p, t = -1.7, -0.4, 100.0
    a, b = math.exp(p / t), math.exp(q / t)
    crossed = -(a * (q / t) + (1 - a) * math.log(1 - b))
    own = -(a * (p / t) + (1 - a) * math.log(1 - a))
    found = alm(torch.tensor(q, dtype=torch.float64), torch.tensor(p, dtype=torch.float64)).item()
    assert found == pytest.approx(crossed - own, rel=1e-10)  # sums of 0.05 that cancel to 1e-3 at 1e-16


def test_binary_kl_limit():
    pairs = [(q, p) for q in (-1e-4, -0.03, -0.7, -40.0) for p in (-2e-4, -0.031, -0.7, -39.0)]
    found = binary_kl_limit(*(torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True)))
    np.testing.assert_allclose(found, [slow_limit(q, p) for q, p in pairs], rtol=1e-10, atol=1e-18)


def test_alm_has_the_slope_of_the_formula():
    q, p = torch.tensor([-0.5, -3.0], dtype=torch.float64, requires_grad=True), torch.tensor([-1.0, -2.0]).double()
    alm(q, p).sum().backward()
    a, b = (np.exp(side.detach().numpy() / 100) for side in (p, q))
    np.testing.assert_allclose(q.grad, (b - a) / (1 - b) / 100, rtol=1e-10)


def test_likelihoods_of_chunks_are_sums_over_the_tokens_before_which_they_are_predicted():
    logits, ids = drawn(4, 2, 5, 6), torch.tensor([[1, 0, 5, 2, 2], [3, 3, 4, 0, 1]])
    numbers = [[-1, 0, 0, 1, 2], [-1, 0, 1, 1, -1]]
    expected = np.zeros((2, 3))
    for row in range(2):
        for at in range(1, 5):
            if numbers[row][at] >= 0:
                expected[row, numbers[row][at]] += math.log(softmax(logits[row, at - 1].tolist())[ids[row, at]])
    found = chunk_log_likelihoods(token_log_probabilities(logits, ids), torch.tensor(numbers), 3)
    np.testing.assert_allclose(found.numpy(), expected, **CLOSE)
