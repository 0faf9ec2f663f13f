"""What made pictures are held to, against loops in float64 written from the papers' formulas; and numbers by hand."""

import math

import numpy as np
import pytest
import torch

from limbeck.synthesis import priors
from limbeck.synthesis.games import Adversarial, Dafl
from limbeck.synthesis.inversion import Pictures

# Both sides are float64 and differ in the order of sums over at most some 200 numbers of size 1 to 10: 1e-13 of them.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
SHAPES = [(1, 1, 1, 1), (3, 2, 4, 5), (2, 3, 1, 4), (5, 1, 6, 6)]
LOGITS = [(1, 2), (4, 3), (7, 10)]


def drawn(shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape) * 2


def softmax(row):
    powers = [math.exp(one - max(row)) for one in row]
    return [one / sum(powers) for one in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def tensor(array):
    return torch.from_numpy(np.asarray(array, dtype=np.float64))


@pytest.mark.parametrize("shape", [*SHAPES, (6, 3)], ids=str)
def test_the_distance_of_statistics(shape):
    x, mean, variance = drawn(shape), drawn((shape[1],), 1), abs(drawn((shape[1],), 2))
    far_mean = far_variance = 0.0
    for channel in range(shape[1]):
        values = [float(one) for one in x[:, channel].ravel()]
        own = sum(values) / len(values)
        spread = sum((one - own) ** 2 for one in values) / len(values)  # biased
        far_mean += (own - mean[channel]) ** 2
        far_variance += (spread - variance[channel]) ** 2
    found = priors.statistics_distance(tensor(x), tensor(mean), tensor(variance))
    np.testing.assert_allclose(float(found), math.sqrt(far_mean) + math.sqrt(far_variance), **CLOSE)


def test_the_distance_of_statistics_by_hand():
    # means 1 and 2 against 1 and 5, variances 1 and 0 against 5 and 3: 3 and the root of 16 + 9
    x = tensor([[0.0, 2.0], [2.0, 2.0]])
    assert float(priors.statistics_distance(x, tensor([1.0, 5.0]), tensor([5.0, 3.0]))) == pytest.approx(8.0, abs=1e-12)


def test_a_batch_that_is_like_its_statistics_is_at_no_distance():
    x = tensor(drawn((8, 3, 4, 4)))
    own, spread = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    x.requires_grad_()
    far = priors.statistics_distance(x, own, spread)
    (slope,) = torch.autograd.grad(far, x)
    assert float(far.detach()) < 1e-12, "rounding alone"
    assert slope.isfinite().all(), "a length has no slope at 0"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_total_variation(shape):
    x = drawn(shape)
    expected = []
    for one in x:
        total = 0.0
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            squares = 0.0
            for c in range(shape[1]):
                for i in range(shape[2]):
                    for j in range(shape[3]):
                        if 0 <= i + down < shape[2] and 0 <= j + right < shape[3]:
                            squares += (one[c, i, j] - one[c, i + down, j + right]) ** 2
            total += math.sqrt(squares)
        expected.append(total)
    np.testing.assert_allclose(priors.total_variation(tensor(x)).numpy(), expected, **CLOSE)


def test_one_colour_does_not_vary_and_has_a_slope():
    x = torch.full((2, 3, 4, 4), 0.7, dtype=torch.float64, requires_grad=True)
    value = priors.total_variation(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value.tolist() == [0.0, 0.0]
    assert slope.isfinite().all()


def test_the_length_by_hand():
    assert priors.length(tensor([[[[3.0, 4.0]]], [[[0.0, -2.0]]]])).tolist() == [5.0, 2.0]


@pytest.mark.parametrize("shape", LOGITS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_competition(shape, temperature):
    student, teacher = drawn(shape), drawn(shape, 1)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        q, p = softmax(s / temperature), softmax(t / temperature)
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        expected.append(1 - (kl(p, middle) + kl(q, middle)) / 2)
    np.testing.assert_allclose(priors.competition(tensor(student), tensor(teacher), temperature), expected, **CLOSE)


def test_the_ends_of_competition():
    same, other = tensor([[50.0, 0.0]]), tensor([[0.0, 50.0]])
    assert float(priors.competition(same, same, 1.0)) == pytest.approx(1.0, abs=1e-12)
    # 50 nats apart: what is left of the likelier class is 2e-22 of it
    assert float(priors.competition(same, other, 1.0)) == pytest.approx(1 - math.log(2), abs=1e-12)


@pytest.mark.parametrize("shape", LOGITS, ids=str)
def test_the_terms_of_dafl(shape):
    logits, features = drawn(shape), drawn((shape[0], 3, 2), 1)
    answers = [softmax(row) for row in logits]
    mean = [sum(one[c] for one in answers) / len(answers) for c in range(shape[1])]
    one_hot = [-math.log(max(one)) for one in answers]
    entropy = sum(one * math.log10(one) for one in mean)
    active = [-sum(abs(v) for v in one.ravel()) / one.size for one in features]
    np.testing.assert_allclose(priors.one_hot(tensor(logits)), one_hot, **CLOSE)
    np.testing.assert_allclose(float(priors.information_entropy(tensor(logits))), entropy, **CLOSE)
    np.testing.assert_allclose(priors.activation(tensor(features)), active, **CLOSE)
    parts = Dafl().parts({"logits": tensor(logits), "head:in": tensor(features)}, lambda: tensor(logits))
    whole = np.mean(one_hot) + 5 * entropy + 0.1 * np.mean(active)
    np.testing.assert_allclose(float(sum(parts.values())), whole, **CLOSE)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_ends_of_information_entropy(classes):
    even = torch.eye(classes, dtype=torch.float64) * 80  # each sure of another class
    assert float(priors.information_entropy(even)) == pytest.approx(-math.log10(classes), abs=1e-12)
    one = even[:1].expand(5, -1) * 20  # so sure that the other shares are 0: 0 log 0 counts nothing
    one.requires_grad_()
    value = priors.information_entropy(one)
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.grad(value, one)[0].isfinite().all()


@pytest.mark.parametrize("shape", LOGITS, ids=str)
def test_the_game_of_adversaries(shape):
    student, teacher = drawn(shape), drawn(shape, 1)
    expected = [-kl(softmax(t), softmax(s)) for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(priors.agreement(tensor(student), tensor(teacher)), expected, **CLOSE)
    parts = Adversarial().parts({"logits": tensor(teacher)}, lambda: tensor(student))
    assert list(parts) == ["agreement"]
    np.testing.assert_allclose(float(parts["agreement"]), np.mean(expected), **CLOSE)
    balanced = Adversarial(balance=2).parts({"logits": tensor(teacher)}, lambda: tensor(student))
    np.testing.assert_allclose(
        float(balanced["balance"]), 2 * float(priors.information_entropy(tensor(teacher))), **CLOSE
    )


@pytest.mark.parametrize("prior", [priors.competition, priors.agreement], ids=lambda one: one.__name__)
def test_both_sides_have_a_slope_and_it_is_right(prior):
    student, teacher = (tensor(drawn((3, 4), seed)).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(prior, (student, teacher))


def test_a_picture_is_held_to_all_of_it():
    """The whole of DeepInversion's loss: class, statistics of two layers, variation, length and competition."""
    pictures, logits, other = drawn((4, 1, 5, 5)), drawn((4, 3)), drawn((4, 3), 1)
    read = {"a:in": tensor(drawn((4, 2, 3, 3))), "b:in": tensor(drawn((4, 3), 2))}
    norms = {}
    for name, value in read.items():
        norms[name] = torch.nn.BatchNorm1d(value.shape[1]).double()
        norms[name].running_mean += 0.3
    targets = [0, 2, 1, 1]
    settings = Pictures(statistics=10, variation=0.2, norm=0.03, competition=0.5)
    own = np.mean([-math.log(softmax(row)[c]) for row, c in zip(logits, targets, strict=True)])
    far = sum(
        float(priors.statistics_distance(read[name], one.running_mean, one.running_var)) for name, one in norms.items()
    )
    alone = own + 10 * far
    alone += 0.2 * float(priors.total_variation(tensor(pictures)).mean())
    alone += 0.03 * np.mean([math.sqrt((one**2).sum()) for one in pictures])
    whole = alone + 0.5 * float(priors.competition(tensor(other), tensor(logits)).mean())
    shown = {"logits": tensor(logits), **read}
    for competitor, expected in ((None, alone), (tensor(other), whole)):
        found = settings.loss(tensor(pictures), shown, torch.tensor(targets), norms, competitor)
        np.testing.assert_allclose(float(found), expected, **CLOSE)
    bare = settings.model_copy(update={"prior": "entropy"})
    np.testing.assert_allclose(float(bare.loss(tensor(pictures), shown, torch.tensor(targets), {}, None)), own, **CLOSE)
