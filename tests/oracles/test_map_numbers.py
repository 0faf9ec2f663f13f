"""Losses of maps against NumPy in float64, with loops, written from the papers' formulas; and numbers by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special

from limbeck.losses import maps

# Both sides are float64 and differ in the order of sums over at most some 200 numbers of size 1 to 100: 1e-13 of them.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
MAPS = [(1, 1, 1, 1), (3, 2, 4, 3), (2, 5, 6, 6), (2, 3, 1, 5)]
TOKENS = [(1, 1, 2), (3, 4, 5)]
VECTORS = [(1, 2), (4, 7)]


def sides(shape, other=None):
    draw = np.random.default_rng(shape)
    return draw.normal(size=shape) * 2, draw.normal(size=other or shape) * 2


def tensors(*arrays):
    return tuple(torch.from_numpy(np.asarray(array)) for array in arrays)


def channels_last(x):
    """A list of positions, each a vector, for one example."""
    if x.ndim == 1:
        return [x]
    if x.ndim == 2:
        return list(x)
    return [x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]


def attention(x, power):
    """Q of one example, Zagoruyko & Komodakis: the mean over channels of |F|^p at each position, over its length."""
    a = [sum(abs(v) ** power for v in vector) / len(vector) for vector in channels_last(x)]
    length = math.sqrt(sum(v**2 for v in a))
    return [v / length for v in a]


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("shape", MAPS + TOKENS, ids=str)
def test_attention_maps_of_different_widths(shape, power):
    other = (shape[0], shape[1] + 2, *shape[2:]) if len(shape) == 4 else (*shape[:2], shape[2] + 2)
    student, teacher = sides(shape, other)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        gaps = [(a - b) ** 2 for a, b in zip(attention(s, power), attention(t, power), strict=True)]
        expected.append(sum(gaps) / len(gaps))
    np.testing.assert_allclose(maps.attention_map(*tensors(student, teacher), power).numpy(), expected, **CLOSE)


def test_an_attention_map_by_hand():
    # energies (9 + 0, 16 + 0) / 2 = (4.5, 8) and (0, 49): Q = (4.5, 8) / sqrt(84.25) and (0, 1)
    student = torch.tensor([[[[3.0, -4.0]], [[0.0, 0.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[0.0, 7.0]]]], dtype=torch.float64)
    q = (4.5 / math.sqrt(84.25), 8 / math.sqrt(84.25))
    by_hand = (q[0] ** 2 + (q[1] - 1) ** 2) / 2
    assert maps.attention_map(student, teacher).item() == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.parametrize("shape", MAPS + TOKENS + VECTORS, ids=str)
def test_ofd_skips_what_lies_below_a_target_that_is_not_positive(shape):
    student, teacher = sides(shape)
    width = shape[1] if len(shape) == 4 else shape[-1]
    for margin in (np.zeros(width), -np.random.default_rng(4).uniform(0, 2, width)):
        expected = []
        for s, t in zip(student, teacher, strict=True):
            total = 0.0
            for a, b in zip(channels_last(s), channels_last(t), strict=True):
                for value, raw, m in zip(a, b, margin, strict=True):
                    target = max(raw, m)
                    if not value <= target <= 0:
                        total += (value - target) ** 2
            expected.append(total)
        np.testing.assert_allclose(maps.ofd(*tensors(student, teacher, margin)).numpy(), expected, **CLOSE)


def test_ofd_by_hand():
    # margin -1; targets 2, -0.5, -1, -1: paid (1 - 2)^2, (0 + 0.5)^2 and (3 + 1)^2; -2 lies below its target -1
    student, teacher = tensors([[1.0, 0.0, -2.0, 3.0]], [[2.0, -0.5, -4.0, -9.0]])
    margin = torch.full((4,), -1.0, dtype=torch.float64)
    assert maps.ofd(student, teacher, margin).item() == 1 + 0.25 + 16


@pytest.mark.parametrize("mean", [-30.0, -3.0, -0.5, 0.0, 0.7, 3.0, 5.9, 6.1, 8.5, 30.0])
@pytest.mark.parametrize("std", [0.2, 1.0, 1.5])
def test_the_mean_of_what_is_negative_by_quadrature(mean, std):
    """Both integrals of E[x | x < 0], over the density relative to its largest value below 0, in units of its decay."""
    top = min(mean, 0.0)
    reach = 40 * std**2 / (std + abs(mean - top))  # the density falls by e^-40 or more within this
    density = lambda x: math.exp(((top - mean) ** 2 - (x - mean) ** 2) / (2 * std**2))  # noqa: E731
    low, options = top - reach, {"epsabs": 0, "epsrel": 1e-12, "limit": 200, "points": [top] if top < 0 else None}
    mass = integrate.quad(density, low, 0, **options)[0]
    first = integrate.quad(lambda x: x * density(x), low, 0, **options)[0]
    ours = maps.negative_mean(*tensors(np.array([mean]), np.array([std]))).item()
    assert ours == pytest.approx(first / mass, rel=1e-10)  # quadrature to 1e-12, cancellation of r <= 4 to 4^2 eps


def test_the_mean_of_what_is_negative_by_hand():
    # half a normal distribution: -sqrt(2 / pi); far above 0 it is an exponential tail of mean -std^2 / mean
    known = {(0.0, 1.0): -math.sqrt(2 / math.pi), (0.0, -3.0): -3 * math.sqrt(2 / math.pi), (1e6, 1.0): -1e-6}
    for (mean, std), value in known.items():
        ours = maps.negative_mean(*tensors(np.array([mean]), np.array([std]))).item()
        assert ours == pytest.approx(value, rel=1e-11)  # the tail's next term is a share of 2 / r^2 = 2e-12
    # phi and Phi themselves, where they do not yet underflow
    for r in (-2.0, 0.3, 2.5):
        plain = r - math.exp(-(r**2) / 2) / math.sqrt(2 * math.pi) / special.ndtr(-r)
        ours = maps.negative_mean(*tensors(np.array([5 * r]), np.array([5.0]))).item()
        assert ours == pytest.approx(5 * plain, rel=1e-11)


def pooled(x, side):
    """Adaptive average pooling of one [C, H, W]: bin i covers floor(i H / side) up to ceil((i + 1) H / side)."""
    c, h, w = x.shape
    out = np.zeros((c, side, side))
    for i in range(side):
        for j in range(side):
            rows = slice(i * h // side, -(-(i + 1) * h // side))
            columns = slice(j * w // side, -(-(j + 1) * w // side))
            out[:, i, j] = x[:, rows, columns].reshape(c, -1).sum(1) / x[0, rows, columns].size
    return out


@pytest.mark.parametrize("levels", [(4, 2, 1), (3,), ()], ids=str)
@pytest.mark.parametrize("shape", [*MAPS, (2, 3, 8, 8), (1, 2, 5, 7)], ids=str)
def test_the_hierarchical_context_loss(shape, levels):
    student, teacher = sides(shape)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        value, weights, k = ((s - t) ** 2).sum() / s.size, 1.0, 0
        for level in levels:
            if level < shape[2]:
                k += 1
                gap = pooled(s, level) - pooled(t, level)
                value += 2.0**-k * (gap**2).sum() / gap.size
                weights += 2.0**-k
        expected.append(value / weights)
    np.testing.assert_allclose(maps.review(*tensors(student, teacher), levels).numpy(), expected, **CLOSE)


def test_the_hierarchical_context_loss_by_hand():
    # 2 x 2, gap (1, -1, 3, 1): mean square 12 / 4 = 3; levels 4 and 2 are skipped; pooled to 1: gap 1, weight 1/2
    gap = torch.tensor([[[[1.0, -1.0], [3.0, 1.0]]]], dtype=torch.float64)
    assert maps.review(gap, torch.zeros_like(gap)).item() == pytest.approx((3 + 0.5 * 1) / 1.5, rel=1e-15)


@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_mgd_hides_generates_and_sums(shape):
    student, teacher = sides(shape)
    for hidden in ((*shape[:2], 1, 1), (shape[0], 1, *shape[2:])):
        mask = np.random.default_rng(9).integers(0, 2, hidden).astype(float)
        expected = [
            sum((2 * s[i] * np.broadcast_to(m, s.shape)[i] + 1 - t[i]) ** 2 for i in np.ndindex(s.shape))
            for s, t, m in zip(student, teacher, mask, strict=True)
        ]
        ours = maps.mgd(*tensors(student, teacher, mask), lambda x: 2 * x + 1)
        np.testing.assert_allclose(ours.numpy(), expected, **CLOSE)


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_channel_wise_is_a_divergence_over_positions(shape, t):
    student, teacher = sides(shape)
    expected = []
    for s, u in zip(student, teacher, strict=True):
        total = 0.0
        for c in range(shape[1]):
            q, p = np.exp(s[c] / t), np.exp(u[c] / t)
            q, p = q / q.sum(), p / p.sum()
            for i in np.ndindex(p.shape):
                total += p[i] * (math.log(p[i]) - math.log(q[i]))
        expected.append(t**2 / shape[1] * total)
    np.testing.assert_allclose(maps.channel_wise(*tensors(student, teacher), t).numpy(), expected, **CLOSE)


def test_channel_wise_by_hand():
    # positions (3/4, 1/4) against (1/2, 1/2), and a second channel that agrees: half of KL = 0.130812
    teacher = torch.tensor([[[[3.0, 1.0]], [[1.0, 1.0]]]], dtype=torch.float64).log()
    by_hand = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert maps.channel_wise(torch.zeros_like(teacher), teacher).item() == pytest.approx(by_hand, rel=1e-14)
