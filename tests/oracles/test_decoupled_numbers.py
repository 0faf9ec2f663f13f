"""Losses that take the label's class apart, against loops in float64 written from the papers' formulas."""

import math

import numpy as np
import pytest
import torch

from limbeck.losses.decoupled import dkd, label_smoothing, nkd, wsld

# Both sides are float64: sums over at most 12 terms, 1e-15 each, magnified by T^2 <= 400 and by 1 / (1 - p_y), which
# the logits here keep below 1e3 at T >= 1 (the oracle forms 1 - p_y as a sum over the others, so it cancels nothing).
CLOSE = {"rtol": 1e-11, "atol": 1e-11}
TEMPERATURES = (1.0, 4.0, 20.0)


def softmax(z, t):
    e = [math.exp((v - max(z)) / t) for v in z]
    return [v / sum(e) for v in e]


def without(values, y):
    rest = [v for i, v in enumerate(values) if i != y]
    return [v / sum(rest) for v in rest], sum(rest)


def kl(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def rows(student, teacher, labels):
    return zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True)


def slow_dkd(student, teacher, labels, alpha, beta, t):
    values = []
    for zs, zt, y in rows(student, teacher, labels):
        p, q = softmax(zt, t), softmax(zs, t)
        (p_hat, p_rest), (q_hat, q_rest) = without(p, y), without(q, y)
        tckd, nckd = kl([p[y], p_rest], [q[y], q_rest]), kl(p_hat, q_hat)
        values.append(t * t * (alpha * tckd + beta * nckd))
    return np.array(values)


def slow_nkd(student, teacher, labels, gamma, t):
    values = []
    for zs, zt, y in rows(student, teacher, labels):
        target = -softmax(zt, 1)[y] * math.log(softmax(zs, 1)[y])
        p_hat, _ = without(softmax(zt, t), y)
        q_hat, _ = without(softmax(zs, t), y)
        others = -sum(a * math.log(b) for a, b in zip(p_hat, q_hat, strict=True))
        values.append(target + gamma * t * t * others)
    return np.array(values)


def slow_wsld(student, teacher, labels, t):
    values = []
    for zs, zt, y in rows(student, teacher, labels):
        ce_s, ce_t = -math.log(softmax(zs, 1)[y]), -math.log(softmax(zt, 1)[y])
        p, q = softmax(zt, t), softmax(zs, t)
        soft = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        values.append((1 - math.exp(-ce_s / ce_t)) * t * t * soft)
    return np.array(values)


def slow_smoothing(logits, labels, share):
    values = []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        target = [share / len(z) + (1 - share if i == y else 0) for i in range(len(z))]
        values.append(-sum(a * math.log(b) for a, b in zip(target, softmax(z, 1), strict=True)))
    return np.array(values)


@pytest.fixture(params=[(1, 2), (7, 3), (5, 12)], ids=str)
def case(request):
    draw, (n, classes) = np.random.default_rng(request.param), request.param
    return draw.normal(size=(n, classes)) * 2, draw.normal(size=(n, classes)) * 2, draw.integers(classes, size=n)


def tensors(case):
    return tuple(torch.from_numpy(array) for array in case)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.0, 1.0), (1.5, 0.0), (2.0, 0.5)])
def test_dkd(case, alpha, beta, t):
    np.testing.assert_allclose(dkd(*tensors(case), alpha, beta, t).numpy(), slow_dkd(*case, alpha, beta, t), **CLOSE)


def test_the_defaults_are_the_papers(case):
    np.testing.assert_allclose(dkd(*tensors(case)).numpy(), slow_dkd(*case, 1, 8, 4), **CLOSE)
    np.testing.assert_allclose(nkd(*tensors(case)).numpy(), slow_nkd(*case, 1.5, 1), **CLOSE)
    np.testing.assert_allclose(wsld(*tensors(case)).numpy(), slow_wsld(*case, 2), **CLOSE)
    student, _, labels = case
    ours = label_smoothing(*tensors((student, labels)))
    np.testing.assert_allclose(ours.numpy(), slow_smoothing(student, labels, 0.1), **CLOSE)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_nkd(case, t):
    for gamma in (0.0, 1.0, 3.0):
        np.testing.assert_allclose(nkd(*tensors(case), gamma, t).numpy(), slow_nkd(*case, gamma, t), **CLOSE)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_wsld(case, t):
    np.testing.assert_allclose(wsld(*tensors(case), t).numpy(), slow_wsld(*case, t), **CLOSE)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0])
def test_label_smoothing(case, share):
    student, _, labels = case
    ours = label_smoothing(*tensors((student, labels)), share)
    np.testing.assert_allclose(ours.numpy(), slow_smoothing(student, labels, share), **CLOSE)


def test_numbers_worked_by_hand():
    # p = (1/2, 3/8, 1/8), q = (1/4, 3/8, 3/8), the label is the first class
    teacher = torch.tensor([[4.0, 3.0, 1.0]], dtype=torch.float64).log()
    student = torch.tensor([[2.0, 3.0, 3.0]], dtype=torch.float64).log()
    label = torch.tensor([0])
    # b_p = (1/2, 1/2), b_q = (1/4, 3/4): KL = 1/2 log 2 + 1/2 log 2/3 = 1/2 log 4/3 = 0.143841
    # p_hat = (3/4, 1/4), q_hat = (1/2, 1/2): KL = 3/4 log 3/2 + 1/4 log 1/2 = 0.130812
    target, others = 0.5 * math.log(4 / 3), 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert dkd(student, teacher, label, 1.0, 8.0, 1.0).item() == pytest.approx(target + 8 * others, rel=1e-14)
    # -p_y log q_y = 1/2 log 4; -sum p_hat log q_hat = log 2: together (1 + gamma) log 2
    assert nkd(student, teacher, label, 1.5).item() == pytest.approx(2.5 * math.log(2), rel=1e-14)
    # CE_s / CE_t = log 4 / log 2 = 2; CE(p, q) = 1/2 log 4 + 1/2 log 8/3
    soft = 0.5 * math.log(4) + 0.5 * math.log(8 / 3)
    assert wsld(student, teacher, label, 1.0).item() == pytest.approx((1 - math.exp(-2)) * soft, rel=1e-14)
    # target (0.8, 0.1, 0.1): 0.8 log 4 + 0.2 log 8/3
    by_hand = 0.8 * math.log(4) + 0.2 * math.log(8 / 3)
    assert label_smoothing(student, label, 0.3).item() == pytest.approx(by_hand, rel=1e-14)
