"""Weights and temperatures that find themselves."""

import math

import pytest
import torch
from torch import nn

from limbeck.data.batch import Batch
from limbeck.losses import kl_divergence
from limbeck.objective import Hints, Labels, Objective, SoftTargets
from limbeck.objective.balance import LogVariance
from limbeck.objective.schedules import Place, WarmUp
from limbeck.objective.temperatures import ByDifficulty, Learned, reversed_gradient

X = torch.zeros(6, 3)
BATCH = Batch.of(X, torch.arange(6) % 4)


def sides(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        {
            "logits": torch.randn(6, 4, generator=generator, dtype=torch.float64),
            "body": torch.randn(6, 5, generator=generator, dtype=torch.float64),
        }
        for _ in range(2)
    )


# --- uncertainty


@pytest.mark.parametrize("start", [0.1, 1.0, 10.0])
def test_an_uncertain_weight_starts_where_it_is_told_and_costs_half_its_log(start):
    part = LogVariance(start, 20.0).double()
    mean = torch.tensor(3.0, dtype=torch.float64)
    # raw is kept in single precision: some 1e-7 of s
    assert float(part(mean, None, mean, Place(0, 1)).detach()) == pytest.approx(
        start * 3 - math.log(start) / 2, rel=1e-5
    )


def test_its_best_weight_is_half_by_the_loss_and_stays_below_the_largest():
    # d/ds (e^-s L + s / 2) = 0 where e^-s = 1 / (2 L)
    part = LogVariance(1.0, 20.0).double()
    optimiser = torch.optim.Adam(part.parameters(), lr=0.05)
    for loss, best in ((0.25, 2.0), (0.0, 20.0)):
        for _ in range(800):
            optimiser.zero_grad()
            part(torch.tensor(loss, dtype=torch.float64), None, None, Place(0, 1)).backward()
            optimiser.step()
        with torch.no_grad():
            one, none = (part(torch.tensor(x).double(), None, None, Place(0, 1)) for x in (1.0, 0.0))
        weight = float(one - none)
        assert weight == pytest.approx(best, rel=0.02) if loss else 15 < weight < 20
        assert math.isfinite(weight)


def test_it_is_trained_with_the_objective_and_without_decay():
    objective = Objective([Labels(), SoftTargets(weight={"schedule": "uncertainty"})])
    objective.build(*sides())
    ((name, part, owned),) = objective.owned()
    assert (name, owned.weight_decay) == ("soft-targets.weight", 0.0)
    loss, parts = objective.double()(*sides(), BATCH)
    loss.backward()
    assert part.raw.grad is not None
    s = -math.log(20) + math.log1p(math.exp(float(part.raw)))
    assert float(loss.detach()) == pytest.approx(
        float(parts["labels"]) + math.exp(-s) * float(parts["soft-targets"]) + s / 2
    )


# --- gradient norms


def pulled(ratio=1.0, **settings):
    weight = {"schedule": "gradient-norm", "ratio": ratio, **settings}
    objective = Objective([Labels(weight=0.3), Hints(student="body", teacher="body", weight=weight)])
    student, teacher = sides()
    objective.build(student, teacher)
    return objective.double(), student, teacher


class Tied(nn.Module):
    """Logits that follow from the body, so that both terms pull at it."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.head = torch.randn(5, 4, generator=generator, dtype=torch.float64)

    def forward(self, body):
        return {"body": body, "logits": torch.tanh(body) @ self.head}


@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_the_pull_at_the_shared_layer_is_the_ratio_of_the_others(ratio):
    objective, student, teacher = pulled(ratio)
    body = student["body"].clone().requires_grad_()
    shown = Tied()(body)
    loss, _ = objective(shown, teacher, BATCH)
    labels, _ = Objective([Labels()])(shown, None, BATCH)
    total = torch.autograd.grad(loss, body, retain_graph=True)[0]
    others = torch.autograd.grad(labels, body)[0]
    mine = total - 0.3 * others
    assert float(mine.norm()) == pytest.approx(ratio * float(others.norm()), rel=1e-9)


def test_the_quotient_is_averaged_and_measured_every_few_steps():
    objective, student, teacher = pulled(every=5, momentum=0.5)
    kept = objective.balances["hints"].quotient
    body = student["body"].clone().requires_grad_()
    seen = []
    for step in range(11):
        objective.at(Place(step, 20))
        objective(Tied()(body * (1 + step)), teacher, BATCH)
        seen.append(float(kept))
    assert [i for i in range(1, 11) if seen[i] != seen[i - 1]] == [5, 10]
    assert objective.state_dict()["balances.hints.quotient"] == kept, "a checkpoint holds it"
    objective.eval()
    objective(Tied()(body * 99), teacher, BATCH)
    assert float(kept) == seen[-1]


def test_where_nothing_can_be_measured_the_ratio_weighs():
    objective, student, teacher = pulled(2.0)
    loss, parts = objective(student, teacher, BATCH)  # no graph
    assert loss == 0.3 * parts["labels"] + 2 * parts["hints"]


def test_a_term_that_is_not_there_is_named():
    objective = Objective([SoftTargets(weight={"schedule": "gradient-norm", "against": "lables"})])
    with pytest.raises(Exception, match="lables"):
        objective.check(None)


# --- temperatures


def test_difficulty_is_the_teachers_entropy():
    t = ByDifficulty(schedule="by-difficulty", easy=2.0, hard=6.0)
    sure = torch.tensor([[100.0, 0, 0], [0, 0, 0], [0, 0, -torch.inf]], dtype=torch.float64)
    found = t.of(Place(0, 1), sure, None)
    assert found[:2].tolist() == pytest.approx([2.0, 6.0], abs=1e-12)
    assert float(found[2]) == pytest.approx(2 + 4 * math.log(2) / math.log(3))
    student, teacher = sides()
    each = SoftTargets(temperature=t).values(student, teacher, BATCH, Place(0, 1), None)
    for row, own in enumerate(t.of(Place(0, 1), teacher["logits"], None)):
        one = SoftTargets(temperature=float(own))
        assert each[row] == pytest.approx(float(one.values(student, teacher, BATCH, Place(0, 1), None)[row]), rel=1e-12)


def test_a_learned_temperature_starts_in_its_range_and_is_trained_against_the_student():
    t = Learned(schedule="learned", low=1.0, high=21.0, rise=0.5)
    part = t.build().double()
    student, teacher = sides()
    values = {}
    for step in (0, 5, 19):
        place = Place(step, 20)
        found = t.of(place, teacher["logits"], part)
        assert float(found) == pytest.approx(1 + 20 / (1 + math.exp(-1)), rel=1e-6)
        term = SoftTargets(temperature=t)
        values[step] = torch.autograd.grad(term.values(student, teacher, BATCH, place, part).mean(), part.theta)[0]
    free = part.theta.detach().clone().requires_grad_()
    true = torch.autograd.grad(
        kl_divergence(student["logits"], teacher["logits"], 1 + 20 * torch.sigmoid(free)).mean(), free
    )[0]
    assert values[0] == 0
    share = -(1 - math.cos(math.pi * (5 / 19) / 0.5)) / 2
    assert float(values[5]) == pytest.approx(share * float(true), rel=1e-9)
    assert float(values[19]) == pytest.approx(-float(true), rel=1e-9)
    # one descent along that gradient raises the loss
    with torch.no_grad():
        raised = [
            float(kl_divergence(student["logits"], teacher["logits"], 1 + 20 * torch.sigmoid(theta)).mean())
            for theta in (part.theta, part.theta - 0.1 * values[19])
        ]
    assert raised[1] > raised[0]


def test_a_reversed_gradient_is_the_gradient_times_its_factor():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (reversed_gradient(x, -0.5) ** 2).sum().backward()
    assert x.grad.tolist() == [-1.0, -2.0]


def test_a_warm_up_rises_to_its_value_and_holds():
    w = WarmUp(schedule="warm-up", value=2.0, share=0.5)
    assert [w.at(Place(step, 5)) for step in range(5)] == [0.0, 1.0, 2.0, 2.0, 2.0]
    assert w.turns == (0.0, 2.0)
