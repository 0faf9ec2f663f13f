"""Feature losses against NumPy in float64, with loops, written from the papers' formulas; and numbers by hand."""

import math

import numpy as np
import pytest
import torch

from limbeck.losses import features

# Both sides are float64 and differ in the order of sums over at most some 200 numbers of size 1 to 100: 1e-13 of them.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
MAPS = [(1, 1, 1, 1), (3, 2, 4, 3), (2, 5, 6, 6), (2, 3, 1, 5)]
TOKENS = [(1, 1, 2), (3, 4, 5)]
VECTORS = [(1, 2), (4, 7)]


def sides(shape):
    draw = np.random.default_rng(shape)
    return draw.normal(size=shape) * 2, draw.normal(size=shape) * 2


def tensors(*arrays):
    return tuple(torch.from_numpy(np.asarray(array)) for array in arrays)


def channels_last(x):
    """A list of positions, each a vector, for one example."""
    if x.ndim == 1:
        return [x]
    if x.ndim == 2:
        return list(x)
    return [x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]


@pytest.mark.parametrize("shape", MAPS + TOKENS + VECTORS, ids=str)
def test_vid_is_the_log_likelihood_of_a_gaussian(shape):
    student, teacher = sides(shape)
    width = shape[1] if len(shape) == 4 else shape[-1]
    variance = np.random.default_rng(2).uniform(0.1, 4, width)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        total, count = 0.0, 0
        for mu, target in zip(channels_last(s), channels_last(t), strict=True):
            for m, value, v in zip(mu, target, variance, strict=True):
                density = math.exp(-((value - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v)
                total += -math.log(density) - math.log(2 * math.pi) / 2
                count += 1
        expected.append(total / count)
    # the density is at least exp(-500): its logarithm loses a few units of the last place
    np.testing.assert_allclose(features.vid(*tensors(student, teacher, variance)).numpy(), expected, **CLOSE)


def test_vid_by_hand():
    student, teacher = tensors([[1.0, 2.0]], [[3.0, 2.0]])
    # channel 1: (2^2 / 4 + log 4) / 2; channel 2: log(1/2) / 2
    by_hand = ((1 + math.log(4)) / 2 + math.log(0.5) / 2) / 2
    assert features.vid(student, teacher, torch.tensor([4.0, 0.5]).double()).item() == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.parametrize("shape", MAPS + TOKENS + VECTORS, ids=str)
def test_cosine_and_squared_euclidean_over_positions(shape):
    student, teacher = sides(shape)
    angles, squares = [], []
    for s, t in zip(student, teacher, strict=True):
        angle, square, count = 0.0, 0.0, 0
        for a, b in zip(channels_last(s), channels_last(t), strict=True):
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            angle += 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
            square += sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
            count += 1
        angles.append(angle / count)
        squares.append(square / count)
    np.testing.assert_allclose(features.cosine(*tensors(student, teacher)).numpy(), angles, **CLOSE)
    np.testing.assert_allclose(features.squared_euclidean(*tensors(student, teacher)).numpy(), squares, **CLOSE)


def test_masked_positions_are_left_out_of_the_mean():
    (student, teacher), lengths = sides((4, 6, 5)), (6, 3, 1, 0)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    for loss in (features.cosine, features.squared_euclidean):
        ours = loss(*tensors(student, teacher), mask)
        for row, n in enumerate(lengths):
            alone = loss(*tensors(student[row : row + 1, :n], teacher[row : row + 1, :n])).item() if n else 0.0
            assert ours[row].item() == pytest.approx(alone, rel=1e-13)


def test_cosine_by_hand():
    # (3, 4) and (4, 3) have cosine 24/25; opposite vectors 2; their squared distance is 2 and 100
    student, teacher = tensors([[3.0, 4.0], [3.0, 4.0]], [[4.0, 3.0], [-3.0, -4.0]])
    assert features.cosine(student, teacher).tolist() == pytest.approx([0.04, 2.0], rel=1e-13)
    assert features.squared_euclidean(student, teacher).tolist() == [2.0, 100.0]


@pytest.mark.parametrize("shape", MAPS + TOKENS + VECTORS, ids=str)
def test_gradients_by_the_input_are_compared_over_the_whole_example(shape):
    student, teacher = sides(shape)
    plain, normal = [], []
    for s, t in zip(student, teacher, strict=True):
        a, b = [math.sqrt(sum(x**2 for x in side.flat)) for side in (s, t)]
        plain.append(sum((x - y) ** 2 for x, y in zip(s.flat, t.flat, strict=True)))
        normal.append(sum((x / a - y / b) ** 2 for x, y in zip(s.flat, t.flat, strict=True)))
    np.testing.assert_allclose(features.jacobian(*tensors(student, teacher)).numpy(), normal, **CLOSE)
    np.testing.assert_allclose(features.jacobian(*tensors(student, teacher), normalize=False).numpy(), plain, **CLOSE)


def test_simkd_is_the_mean_square():
    student, teacher = sides((3, 2, 4, 4))
    pairs = zip(student, teacher, strict=True)
    expected = [sum((s[i] - t[i]) ** 2 for i in np.ndindex(s.shape)) / s.size for s, t in pairs]
    np.testing.assert_allclose(features.simkd(*tensors(student, teacher)).numpy(), expected, **CLOSE)
