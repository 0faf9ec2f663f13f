"""What keeps from forgetting, worked out again: Fisher information by hand, penalties, projections, the figures of forgetting."""

import copy

import numpy as np
import pytest
import torch
from tests.fakes.experiments import CLASSES, WIDTH, examples
from torch import nn

from limbeck.evidence.retention import forgetting, retained, transfer
from limbeck.regimes.elastic import Pull, fisher
from limbeck.regimes.projected import straighten


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(WIDTH, CLASSES)


class Normed(nn.Module):
    """A norm of channels before the map, with statistics of its own."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES)
        self.norm.running_mean.normal_()
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.head(self.norm(x))


@pytest.mark.parametrize("rows", [1, 7, 60, 100])
def test_the_fisher_information_of_a_linear_model(rows):
    """E_y of the squared gradient of log p(y): p (1 - p) x^2 for a weight, p (1 - p) for a bias; each example by itself."""
    model, of = linear(), examples(60)
    found = fisher(copy.deepcopy(model), of, rows)
    picked = np.linspace(0, 59, min(rows, 60)).astype(int)
    x = of.table.x[of.rows[picked]].double().numpy()
    z = x @ model.weight.detach().double().numpy().T + model.bias.detach().double().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    spread = p * (1 - p)
    weight = np.einsum("nc,nd->cd", spread, x**2)
    bias = spread.sum(0)
    mean = (weight.sum() + bias.sum()) / (weight.size + bias.size)
    # float32 sums over at most 60 rows and 3 answers: some 1e-6 relative
    np.testing.assert_allclose(found["weight"].numpy(), weight / mean, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(found["bias"].numpy(), bias / mean, rtol=2e-5, atol=1e-6)
    square_of_mean = sum(
        p[:, c].mean() * ((np.eye(CLASSES)[c] - p)[:, :, None] * x[:, None]).mean(0) ** 2 for c in range(CLASSES)
    )
    if rows > 1:
        assert not np.allclose(square_of_mean / square_of_mean.mean(), weight / weight.mean(), rtol=0.1), (
            "another thing"
        )


def test_the_mean_is_one_and_buffers_are_no_parameters():
    model = Normed()
    statistics = model.norm.running_mean.clone()
    found = fisher(model, examples(30), 30)
    assert set(found) == {"norm.weight", "norm.bias", "head.weight", "head.bias", "unused"}
    assert not found["unused"].any(), "what the answers do not depend on does not matter"
    every = torch.cat([one.flatten() for one in found.values()])
    assert every.mean().item() == pytest.approx(1, rel=1e-5)
    assert torch.equal(model.norm.running_mean, statistics)


def test_the_information_of_all_rows_is_the_mean_of_that_of_each():
    model, of = linear(1), examples(12)
    found = fisher(copy.deepcopy(model), of, 12)
    total = None
    for row in range(12):
        one = of_row(of, row)
        alone = raw(copy.deepcopy(model), one)
        total = alone if total is None else {name: total[name] + value for name, value in alone.items()}
    mean = sum(float(one.sum()) for one in total.values()) / sum(one.numel() for one in total.values())
    for name, one in found.items():
        assert torch.allclose(one, total[name] / mean, rtol=1e-5), name


def of_row(of, row):
    return type(of)(**{**vars(of), "rows": of.rows[row : row + 1]})


def raw(model, one):
    """Not divided by its mean: in expectation over the answers, by finite loops."""
    x = one.table.x[one.rows]
    sums = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for answer in range(CLASSES):
        model.zero_grad()
        said = model(x)[0].log_softmax(-1)
        said[answer].backward()
        for name, value in model.named_parameters():
            sums[name] += said[answer].detach().exp() * value.grad**2
    return sums


def test_the_penalty_pulls_with_its_gradient_and_not_at_rest():
    model = linear(2)
    anchor = {name: one.detach().clone() for name, one in model.named_parameters()}
    importance = {name: torch.rand_like(one) for name, one in model.named_parameters()}
    pull = Pull(anchor, importance, 3.0)
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    pull.gradients(model)
    assert all(torch.equal(one.grad, torch.ones_like(one)) for one in model.parameters()), "0 at theta*"
    with torch.no_grad():
        for one in model.parameters():
            one.add_(torch.randn_like(one))
    moved = copy.deepcopy(model).double()
    penalty = sum(
        1.5 * (importance[name].double() * (one - anchor[name].double()) ** 2).sum()
        for name, one in moved.named_parameters()
    )
    penalty.backward()
    pull.gradients(model)
    for one, expected in zip(model.parameters(), moved.parameters(), strict=True):
        assert torch.allclose(one.grad.double(), 1 + expected.grad, atol=1e-5)


def test_without_a_gradient_nothing_is_pulled():
    model = linear(3)
    model.bias.requires_grad_(False)
    model(torch.randn(2, WIDTH)).sum().backward()
    anchor = {name: torch.zeros_like(one) for name, one in model.named_parameters()}
    Pull(anchor, {"bias": torch.ones(CLASSES)}, 1.0).gradients(model)
    assert model.bias.grad is None


@pytest.mark.parametrize("seed", range(6))
def test_a_straightened_gradient_does_no_harm_and_is_the_nearest(seed):
    draw = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(4, 3, generator=draw), torch.randn(5, generator=draw)]
    against = [torch.randn(4, 3, generator=draw), torch.randn(5, generator=draw)]
    g, r = (torch.cat([one.flatten() for one in side]).double() for side in (gradients, against))
    if g @ r > 0:
        g, gradients = -g, [-one for one in gradients]
    straighten(gradients, against)
    found = torch.cat([one.flatten() for one in gradients]).double()
    assert torch.allclose(found, g - (g @ r) / (r @ r) * r, atol=1e-5)
    # float32 entries of size 1, 17 of them
    assert abs(float(found @ r)) < 1e-5
    again = [one.clone() for one in gradients]
    straighten(again, against)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(again, gradients, strict=True)), "once is enough"


def test_a_gradient_that_does_no_harm_stays_to_the_bit():
    gradients, against = [torch.tensor([1.0, 2.0])], [torch.tensor([0.5, -0.1])]
    straighten(gradients, against)
    assert torch.equal(gradients[0], torch.tensor([1.0, 2.0]))
    straighten(gradients, [torch.zeros(2)])
    assert torch.equal(gradients[0], torch.tensor([1.0, 2.0]))


def test_forgetting_and_transfer_by_hand():
    matrix = np.array([[0.9, 0.1, 0.0], [0.95, 0.8, 0.0], [0.5, 0.85, 0.7]])
    assert forgetting(matrix) == pytest.approx(((0.95 - 0.5) + (0.8 - 0.85)) / 2)
    assert transfer(matrix) == pytest.approx(((0.5 - 0.9) + (0.85 - 0.8)) / 2)
    assert (forgetting(matrix[:1, :1]), transfer(matrix[:1, :1])) == (None, None)
    both = retained([matrix, matrix + 0.1])
    assert both.per_seed == pytest.approx((0.2, 0.2))
    assert (both.forgetting, both.transfer) == pytest.approx((0.2, -0.175))
    assert both.matrix[2] == pytest.approx((0.55, 0.9, 0.75))
    alone = retained([matrix[:1, :1]])
    assert (alone.forgetting, alone.transfer, alone.per_seed) == (None, None, ())


def test_rows_of_some_classes():
    of = examples(30)
    assert of.of_classes([2]).rows.tolist() == list(range(2, 30, 3))
    assert len(of.of_classes([])) == 0
