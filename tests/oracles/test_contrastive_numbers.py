"""Contrastive and adversarial losses, and the memory's bookkeeping, against NumPy in float64, written with loops."""

import math

import numpy as np
import pytest
import torch

from limbeck.losses.adversarial import discriminator_loss, generator_loss
from limbeck.losses.contrastive import contrastive, crd
from limbeck.objective.parts.discriminator import Discriminator, adversarial_values
from limbeck.objective.parts.memory import ContrastMemory

# Both sides are float64: sums of at most some 50 terms, each exact to 1e-16 of itself times 1 / temperature <= 20.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def unit(v):
    return v / math.sqrt(sum(x * x for x in v))


def info_nce(anchors, keys, t, labels=None):
    values = []
    for i, anchor in enumerate(anchors):
        scores = {}
        for j, key in enumerate(keys):
            if j == i or labels is None or labels[i] < 0 or labels[i] != labels[j]:
                scores[j] = math.exp(float(np.dot(unit(anchor), unit(key))) / t)
        values.append(-math.log(scores[i] / sum(scores.values())))
    return np.array(values)


def critic(anchor, other, z, k, rows, t):
    """Equation 19 of the paper, h = s / (s + K / N), with s = exp(g g' / t) / Z."""
    s = math.exp(float(np.dot(anchor, other)) / t) / z
    return s / (s + k / rows)


def nce(anchors, positives, negatives, z, rows, t):
    values = []
    for anchor, positive, others in zip(anchors, positives, negatives, strict=True):
        k = len(others)
        value = math.log(critic(anchor, positive, z, k, rows, t))
        for other in others:
            value += math.log(1 - critic(anchor, other, z, k, rows, t))
        values.append(-value)
    return np.array(values)


def units(draw, *shape):
    value = draw.normal(size=shape)
    return value / np.sqrt((value**2).sum(-1, keepdims=True))


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


@pytest.mark.parametrize("t", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (7, 5), (12, 1)], ids=str)
def test_info_nce(shape, t):
    draw = np.random.default_rng(shape)
    student, teacher = 3 * draw.normal(size=shape), draw.normal(size=shape) / 3
    rows, columns = info_nce(student, teacher, t), info_nce(teacher, student, t)
    np.testing.assert_allclose(contrastive(*tensors(student, teacher), t).numpy(), rows, **CLOSE)
    both = contrastive(*tensors(student, teacher), t, symmetric=True).numpy()
    np.testing.assert_allclose(both, (rows + columns) / 2, **CLOSE)


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 0], [3, 3, 3, 3, 3, 3], [-1, -1, 4, 4, -100, -100]], ids=str)
def test_info_nce_with_classes(labels):
    draw = np.random.default_rng(2)
    student, teacher = draw.normal(size=(6, 4)), draw.normal(size=(6, 4))
    ours = contrastive(*tensors(student, teacher), 0.2, torch.tensor(labels)).numpy()
    np.testing.assert_allclose(ours, info_nce(student, teacher, 0.2, labels), **CLOSE)


def test_info_nce_worked_by_hand():
    # two rows at right angles, student = teacher: cosines 1 and 0, so log(1 + exp(-1 / t)) = 0.126928 at t = 1/2
    value = contrastive(*[torch.tensor([[5.0, 0.0], [0.0, 0.1]], dtype=torch.float64)] * 2, temperature=0.5)
    assert value.tolist() == pytest.approx([math.log(1 + math.exp(-2))] * 2, rel=1e-14)
    assert value[0].item() == pytest.approx(0.126928, abs=1e-6)


@pytest.mark.parametrize(("t", "z"), [(0.07, 1.0), (0.07, 4e3), (0.5, 30.0), (2.0, 0.1)])
@pytest.mark.parametrize(("batch", "count", "width", "rows"), [(1, 1, 2, 2), (3, 7, 4, 10), (5, 40, 8, 41)])
def test_crd(batch, count, width, rows, t, z):
    draw = np.random.default_rng([batch, count])
    anchors, positives, negatives = (units(draw, *n, width) for n in ((batch,), (batch,), (batch, count)))
    ours = crd(*tensors(anchors, positives, negatives), z, rows, t)
    expected = nce(anchors, positives, negatives, z, rows, t)
    # the oracle's 1 - h loses what h has of 1: 1e-16 of a difference that these scores keep above 1e-7
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-8)
    as_tensor = crd(*tensors(anchors, positives, negatives), torch.tensor(z, dtype=torch.float64), rows, t)
    np.testing.assert_allclose(as_tensor.numpy(), ours.numpy(), **CLOSE)


def test_crd_worked_by_hand():
    # one negative of two rows, t = 1, Z = 1: h+ = e / (e + 1/2), and 1 - h- = (1/2) / (1 + 1/2) = 1/3: 0.168848 + 1.098612
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    value = crd(anchor, anchor, torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), 1.0, rows=2, temperature=1.0)
    assert value.item() == pytest.approx(math.log((math.e + 0.5) / math.e) + math.log(3), rel=1e-14)
    assert value.item() == pytest.approx(1.267460, abs=1e-6)


def embedded(layer, rows):
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return np.array([unit(weight @ row + bias) for row in rows])


def test_two_steps_of_the_memory():
    """With K = N - 1 = 1 of two rows each, the one negative is the other row, so nothing is left to chance."""
    t, momentum, n = 0.3, 0.25, 2
    torch.manual_seed(3)
    part = ContrastMemory(3, 5, rows=n, width=4, negatives=9, temperature=t, momentum=momentum).double()
    ours_kept, theirs_kept = part.student_memory.numpy().copy(), part.teacher_memory.numpy().copy()
    draw, z = np.random.default_rng(4), None
    for ids in ([1, 0], [1]):
        student, teacher = draw.normal(size=(len(ids), 3)), draw.normal(size=(len(ids), 5))
        ours, theirs = embedded(part.student, student), embedded(part.teacher, teacher)
        value = part(*tensors(student, teacher), torch.tensor(ids)).detach().numpy()
        directions = [
            (ours, theirs, np.array([[theirs_kept[1 - i]] for i in ids])),
            (theirs, ours, np.array([[ours_kept[1 - i]] for i in ids])),
        ]
        if z is None:  # N times the mean of the first batch's exponentiated scores, one a direction
            z = []
            for anchors, positives, negatives in directions:
                scores = []
                for a, p, others in zip(anchors, positives, negatives, strict=True):
                    scores += [math.exp(float(np.dot(a, b)) / t) for b in (p, *others)]
                z.append(n * sum(scores) / len(scores))
        expected = sum(nce(*sides, constant, n, t) for sides, constant in zip(directions, z, strict=True))
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        for kept, fresh in ((ours_kept, ours), (theirs_kept, theirs)):
            for i, new in zip(ids, fresh, strict=True):
                kept[i] = unit(momentum * kept[i] + (1 - momentum) * new)
        np.testing.assert_allclose(part.constants.numpy(), z, **CLOSE)
        np.testing.assert_allclose(part.student_memory.numpy(), ours_kept, **CLOSE)
        np.testing.assert_allclose(part.teacher_memory.numpy(), theirs_kept, **CLOSE)


def test_both_players_losses():
    draw = np.random.default_rng(9)
    ours, theirs = 4 * draw.normal(size=8), 4 * draw.normal(size=8)
    d_ours, d_theirs = (1 / (1 + np.exp(-scores)) for scores in (ours, theirs))
    np.testing.assert_allclose(
        discriminator_loss(*tensors(ours, theirs)).numpy(), -np.log(d_theirs) - np.log(1 - d_ours), **CLOSE
    )
    np.testing.assert_allclose(generator_loss(*tensors(ours)).numpy(), -np.log(d_ours), **CLOSE)
    # D(student) = 1/4 and D(teacher) = 3/4: -log(3/4) - log(3/4), and -log(1/4)
    quarter = torch.tensor([-math.log(3)], dtype=torch.float64)
    assert discriminator_loss(quarter, -quarter).item() == pytest.approx(2 * math.log(4 / 3), rel=1e-14)
    assert generator_loss(quarter).item() == pytest.approx(math.log(4), rel=1e-14)


def test_the_discriminator_is_a_network_of_matrices_divided_by_their_largest_singular_value():
    torch.manual_seed(0)
    part = Discriminator(6, 5).double()
    draw = np.random.default_rng(1)
    student, teacher = draw.normal(size=(3, 2, 3)), draw.normal(size=(3, 2, 3))
    for _ in range(400):  # the power iteration converges as the square of a ratio of singular values below 1
        part.weights()

    def score(example):
        value = example.reshape(-1)
        for index, layer in enumerate(part.layers):
            matrix = layer.parametrizations.weight.original.detach().numpy()
            value = matrix @ value / np.linalg.svd(matrix)[1][0] + layer.bias.detach().numpy()
            if index < 2:
                value = np.array([x if x > 0 else 0.2 * x for x in value])
        return value.item()

    ours, theirs = (np.array([score(example) for example in side]) for side in (student, teacher))
    np.testing.assert_allclose(part(torch.from_numpy(student)).detach().numpy(), ours, rtol=1e-9)
    d_ours, d_theirs = (1 / (1 + np.exp(-scores)) for scores in (ours, theirs))
    expected = -np.log(d_theirs) - np.log(1 - d_ours) - np.log(d_ours)
    value = adversarial_values(part, *tensors(student, teacher))
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-9)
