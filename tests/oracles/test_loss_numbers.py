"""Every loss against NumPy in float64, written from the papers' formulas: p = softmax(z_t / T), q = softmax(z_s / T)."""

import numpy as np
import pytest
import torch

from limbeck import losses
from limbeck.data.batch import SUPERVISED, TOKENS, Batch
from limbeck.objective import Hints, Labels, Objective, SoftTargets

# Both sides are float64 and differ in the order of a few sums over at most 12 numbers: some 1e-15 of the value, which
# temperatures magnify by T^2 <= 400 where p and q almost agree.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
TEMPERATURES = (0.5, 1.0, 4.0, 20.0)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kd(student, teacher, t):
    """T^2 KL(p || q), Hinton et al. 2015: summed over classes, a value an example."""
    p, q = softmax(teacher / t), softmax(student / t)
    return t**2 * (p * (np.log(p) - np.log(q))).sum(-1)


def soft_ce(student, teacher, t):
    return -(t**2) * (softmax(teacher / t) * np.log(softmax(student / t))).sum(-1)


def brier(student, teacher, t):
    return t**2 * ((softmax(student / t) - softmax(teacher / t)) ** 2).sum(-1)


def centred_mse(student, teacher):
    gap = (student - student.mean(-1, keepdims=True)) - (teacher - teacher.mean(-1, keepdims=True))
    return (gap**2).sum(-1) / gap.shape[-1]


def ce(logits, labels):
    return np.array([-np.log(row[y]) if y >= 0 else 0.0 for row, y in zip(softmax(logits), labels, strict=True)])


def smoothed_ce(logits, labels, share):
    classes = logits.shape[-1]
    target = (1 - share) * np.eye(classes)[labels] + share / classes
    return -(target * np.log(softmax(logits))).sum(-1)


@pytest.fixture(params=[(1, 2), (7, 3), (5, 12)], ids=str)
def pair(request):
    draw = np.random.default_rng(request.param)
    return draw.normal(size=request.param) * 3, draw.normal(size=request.param) * 3


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize(
    ("ours", "oracle"),
    [(losses.kl_divergence, kd), (losses.soft_cross_entropy, soft_ce), (losses.probability_mse, brier)],
    ids=["kl", "soft-ce", "probability-mse"],
)
def test_softened_losses(ours, oracle, pair, t):
    np.testing.assert_allclose(ours(*tensors(*pair), t).numpy(), oracle(*pair, t), **CLOSE)


def test_one_number_worked_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL(p || q) = 3/4 log(3/2) + 1/4 log(1/2) = 0.130812; the other way it is 0.143841
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()
    by_hand = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert losses.kl_divergence(student, teacher).item() == pytest.approx(by_hand, rel=1e-14)
    # softened by T = 2, p is proportional to the square roots, and the value carries T^2 = 4
    p = np.sqrt(3) / (np.sqrt(3) + 1)
    by_hand = 4 * (p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)))
    assert losses.kl_divergence(student, teacher, 2.0).item() == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_the_gradient_of_soft_targets_is_t_times_q_minus_p(pair, t):
    student, teacher = tensors(*pair)
    student.requires_grad_()
    for loss in (losses.kl_divergence, losses.soft_cross_entropy):
        (gradient,) = torch.autograd.grad(loss(student, teacher, t).sum(), student)
        np.testing.assert_allclose(gradient.numpy(), t * (softmax(pair[0] / t) - softmax(pair[1] / t)), **CLOSE)


def test_the_gradient_of_probability_mse_follows_from_the_jacobian_of_softmax(pair):
    t, (student, teacher) = 3.0, tensors(*pair)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.probability_mse(student, teacher, t).sum(), student)
    q, p = softmax(pair[0] / t), softmax(pair[1] / t)
    jacobian = np.einsum("bi,ij->bij", q, np.eye(q.shape[1])) - q[:, :, None] * q[:, None, :]
    np.testing.assert_allclose(gradient.numpy(), 2 * t * np.einsum("bij,bj->bi", jacobian, q - p), **CLOSE)


def test_logit_mse_and_its_gradient(pair):
    student, teacher = tensors(*pair)
    student.requires_grad_()
    value = losses.logit_mse(student, teacher)
    np.testing.assert_allclose(value.detach().numpy(), centred_mse(*pair), **CLOSE)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    gap = pair[0] - pair[1]
    np.testing.assert_allclose(gradient.numpy(), 2 * (gap - gap.mean(-1, keepdims=True)) / gap.shape[1], **CLOSE)


def test_cross_entropy_with_labels_smoothing_and_probabilities(pair):
    logits, other = pair
    rows, classes = logits.shape
    labels = np.arange(rows) % classes
    with_gaps = np.where(np.arange(rows) % 3 == 2, -100, labels)
    for given in (labels, with_gaps):
        np.testing.assert_allclose(losses.cross_entropy(*tensors(logits, given)).numpy(), ce(logits, given), **CLOSE)
    for share in (0.1, 0.5):
        ours = losses.cross_entropy(*tensors(logits, labels), share)
        np.testing.assert_allclose(ours.numpy(), smoothed_ce(logits, labels, share), **CLOSE)
    soft = softmax(other)
    ours = losses.cross_entropy(*tensors(logits, soft)).numpy()
    np.testing.assert_allclose(ours, -(soft * np.log(softmax(logits))).sum(-1), **CLOSE)


def test_hints_are_the_mean_over_an_examples_elements_or_its_counted_tokens():
    draw = np.random.default_rng(3)
    for shape in ((4, 5), (4, 2, 3, 3)):
        student, teacher = draw.normal(size=shape), draw.normal(size=shape)
        expected = [np.mean((a - b) ** 2) for a, b in zip(student, teacher, strict=True)]
        np.testing.assert_allclose(losses.hint(*tensors(student, teacher)).numpy(), expected, **CLOSE)
    student, teacher, lengths = draw.normal(size=(4, 6, 5)), draw.normal(size=(4, 6, 5)), (6, 3, 1, 0)
    expected = [np.mean((a[:n] - b[:n]) ** 2) if n else 0.0 for a, b, n in zip(student, teacher, lengths, strict=True)]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    np.testing.assert_allclose(losses.hint(*tensors(student, teacher), mask).numpy(), expected, **CLOSE)


@pytest.mark.parametrize("loss", ["kl", "cross-entropy", "probability-mse", "logit-mse"])
def test_the_objective_of_hinton_on_a_linear_student(loss):
    """Loss and weight gradient of 0.1 CE + 0.9 T^2 KL: CE over the labelled rows, soft targets over all of them."""
    draw = np.random.default_rng(11)
    rows, width, classes, t = 9, 4, 5, 3.0
    x, weights, teacher = draw.normal(size=(rows, width)), draw.normal(size=(width, classes)), draw.normal(size=(9, 5))
    labels = np.where(np.arange(rows) < 6, np.arange(rows) % classes, -100)
    oracle = {"kl": kd, "cross-entropy": soft_ce, "probability-mse": brier}.get(loss, lambda a, b, _: centred_mse(a, b))

    def expected(w):
        return 0.1 * ce(x @ w, labels).sum() / 6 + 0.9 * oracle(x @ w, teacher, t).mean()

    settings = {} if loss == "logit-mse" else {"temperature": t}
    objective = Objective([Labels(weight=0.1), SoftTargets(weight=0.9, loss=loss, **settings)])
    w = torch.from_numpy(weights).requires_grad_()
    value, parts = objective(
        {"logits": torch.from_numpy(x) @ w},
        {"logits": torch.from_numpy(teacher)},
        Batch.of(torch.from_numpy(x), torch.from_numpy(labels)),
    )
    assert value.item() == pytest.approx(expected(weights), rel=1e-12)
    assert parts["labels"].item() == pytest.approx(ce(x @ weights, labels).sum() / 6, rel=1e-12)
    assert parts["soft-targets"].item() == pytest.approx(oracle(x @ weights, teacher, t).mean(), rel=1e-12)
    value.backward()
    step = 1e-5  # central differences: error of step^2 = 1e-10, rounding of 1e-16 / step = 1e-11
    numeric = np.empty_like(weights)
    for place in np.ndindex(weights.shape):
        nudge = np.zeros_like(weights)
        nudge[place] = step
        numeric[place] = (expected(weights + nudge) - expected(weights - nudge)) / (2 * step)
    np.testing.assert_allclose(w.grad.numpy(), numeric, atol=1e-8)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_hint_from_tokens_to_a_vector_pools_the_tokens_that_count(normalise):
    draw = np.random.default_rng(5)
    lengths, tokens, vectors = (5, 2, 1), draw.normal(size=(3, 5, 4)), draw.normal(size=(3, 4))

    def scaled(v):
        return v / np.sqrt(np.mean(v**2) + 1e-6) if normalise else v

    expected = np.mean(
        [np.mean((scaled(a[:n].mean(0)) - scaled(b)) ** 2) for a, b, n in zip(tokens, vectors, lengths, strict=True)]
    )
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    batch = Batch.of({"input_ids": torch.ones_like(mask), "attention_mask": mask})
    assert TOKENS in batch.masks
    assert not batch.masks[SUPERVISED].any()
    objective = Objective([Hints(student="layer", teacher="layer", normalise=normalise)])
    value, _ = objective({"layer": torch.from_numpy(tokens)}, {"layer": torch.from_numpy(vectors)}, batch)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", ["vector", "tokens", "map"])
def test_a_projected_hint(shape):
    """r(F_s) - F_t, squared and averaged; r a linear map over channels; maps averaged to the smaller size first."""
    draw = np.random.default_rng(8)
    sizes = {"vector": ((3, 4), (3, 6)), "tokens": ((3, 5, 4), (3, 5, 6)), "map": ((3, 4, 4, 4), (3, 6, 2, 2))}[shape]
    student, teacher = (draw.normal(size=size) for size in sizes)
    objective = Objective([Hints(student="a", teacher="b")])
    signals = {"a": torch.from_numpy(student)}, {"b": torch.from_numpy(teacher)}
    objective.build(*signals)
    objective.double()
    weight, bias = (dict(objective.named_parameters())[f"parts.hints.linear.{n}"] for n in ("weight", "bias"))
    with torch.no_grad():
        bias.normal_()
    matrix, shift = weight.detach().numpy().reshape(6, 4), bias.detach().numpy()
    if shape == "map":
        student = student.reshape(3, 4, 2, 2, 2, 2).mean((3, 5))  # blocks of 2 by 2
        projected = np.einsum("oc,bchw->bohw", matrix, student) + shift[None, :, None, None]
    else:
        projected = student @ matrix.T + shift
    value, _ = objective(*signals, Batch.of(torch.zeros(3, 1)))
    assert value.item() == pytest.approx(np.mean((projected - teacher) ** 2), rel=1e-12)
