"""What regularises a training, worked out again: a linear model's penalty by hand, balls around rows, the pull to a start."""

import itertools

import numpy as np
import pytest
import torch
from tests.fakes.experiments import CLASSES, WIDTH, Convolutions, smooth, stage
from torch import nn

from limbeck.data.batch import Batch
from limbeck.losses import gradient_penalty
from limbeck.objective import GradientPenalty, Objective
from limbeck.objective.schedules import Place
from limbeck.regimes.fine_tuned import Sp
from limbeck.signals.capture import Capture
from limbeck.signals.gradient import signs
from limbeck.training.optimizers import MaxNorm

# float64: sums of some dozens of products
TIGHT = {"rtol": 1e-12, "atol": 1e-14}


def penalised(model, x, weight=0.3):
    """The loss of a penalty of weight 0.3 alone, and its gradients."""
    batch = Batch.of({"x": x})
    with Capture(model, {"gradient"}) as capture:
        shown = capture(batch.columns("student"), keys=batch.keys)
        loss, parts = Objective([GradientPenalty(weight=weight)])(shown, None, batch)
    return loss, parts, torch.autograd.grad(loss, list(model.parameters()), allow_unused=True), batch.keys


def test_of_a_linear_model_it_is_the_length_of_a_sum_of_its_rows():
    torch.manual_seed(0)
    model = nn.Linear(WIDTH, CLASSES).double()
    loss, parts, (slope, bias), keys = penalised(model, torch.randn(6, WIDTH, dtype=torch.float64))
    w, s = model.weight.detach().numpy(), signs(keys, CLASSES).numpy()
    rows = s @ w  # [6, WIDTH]
    np.testing.assert_allclose(parts["gradient-penalty"].item(), (rows**2).sum(1).mean(), **TIGHT)
    np.testing.assert_allclose(loss.item(), 0.3 * (rows**2).sum(1).mean(), **TIGHT)
    np.testing.assert_allclose(slope.numpy(), 0.3 * 2 * np.einsum("nc,nd->cd", s, rows) / 6, **TIGHT)
    assert bias is None, "a shift changes no slope"


def test_over_all_signs_it_is_the_squared_norm_of_the_jacobian():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    x = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    found = []
    for s in itertools.product((-1.0, 1.0), repeat=4):
        (slope,) = torch.autograd.grad((model(x) * torch.tensor(s)).sum(), x)
        found.append(float(gradient_penalty(slope)))
    whole = torch.autograd.functional.jacobian(model, x.detach())
    assert np.mean(found) == pytest.approx(float(whole.square().sum()), rel=1e-12)
    assert np.std(found) > 0


def test_by_finite_differences_of_the_input_and_of_the_weights():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    _, parts, slopes, keys = penalised(model, x)
    s, h = signs(keys, 3), 1e-4

    def combined(at):
        return (s * model(at)).sum(1).detach().numpy()

    def penalty():
        each = []
        for place in range(4):
            step = torch.zeros(4, dtype=torch.float64)
            step[place] = h
            each.append((combined(x + step) - combined(x - step)) / (2 * h))
        return float((np.stack(each) ** 2).sum(0).mean())

    # the differences' own errors are h^2 here and some 1e-16 / h in each
    assert parts["gradient-penalty"].item() == pytest.approx(penalty(), rel=1e-6)
    weight = model[0].weight
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[2, 1] += sign * 1e-3
            found.append(penalty())
            weight[2, 1] -= sign * 1e-3
    assert float(slopes[0][2, 1]) == pytest.approx(0.3 * (found[0] - found[1]) / 2e-3, rel=1e-4)


@pytest.mark.parametrize("make", [smooth, Convolutions])
@pytest.mark.parametrize("largest", [0.3, 0.8, 50.0])
def test_rows_beyond_the_ball_are_brought_to_its_edge_and_others_stay(make, largest):
    torch.manual_seed(3)
    model = make()
    before = {name: one.detach().double().numpy().copy() for name, one in model.named_parameters()}
    MaxNorm(largest).stepped(model, Place(1, 2))
    for name, one in model.named_parameters():
        rows = before[name].reshape(len(before[name]), -1)
        norms = np.sqrt((rows**2).sum(1))
        factor = np.minimum(1.0, largest / norms) if before[name].ndim > 1 else np.ones(len(rows))
        expected = (rows * factor[:, None]).reshape(before[name].shape)
        np.testing.assert_allclose(one.detach().numpy(), expected, rtol=2e-6)
        inside = torch.tensor(factor == 1)
        assert torch.equal(one.detach()[inside], torch.tensor(before[name]).float()[inside]), "to the bit"


def test_the_pull_is_the_slope_of_half_the_squared_distance():
    torch.manual_seed(4)
    model = smooth()
    part = Sp(0.7).part(stage(), model)
    start = {name: one.detach().clone() for name, one in model.named_parameters()}
    for one in model.parameters():
        one.grad = torch.full_like(one, 0.5)
        one.data.add_(torch.randn_like(one))
    part.gradients(model)
    for name, one in model.named_parameters():
        expected = 0.5 + 0.7 * (one.detach().double().numpy() - start[name].double().numpy())
        np.testing.assert_allclose(one.grad.numpy(), expected, rtol=1e-5, atol=1e-6)
