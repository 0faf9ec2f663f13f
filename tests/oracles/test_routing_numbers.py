"""Routing against its formulas in float64, with loops over examples, teachers and classes."""

from math import exp, log

import pytest
import torch

from limbeck.data.batch import NO_LABEL, Batch
from limbeck.losses import evenness, mixture
from limbeck.objective import Routing
from limbeck.objective.parts.router import Routes
from limbeck.objective.schedules import Place

B, C, NAMES = 7, 4, ("a", "b", "c")
LABELS = torch.tensor([0, 3, NO_LABEL, 1, 2, NO_LABEL, 1])


def draws(*shape, seed):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(values):
    highest = max(values)
    found = [exp(one - highest) for one in values]
    return [one / sum(found) for one in found]


def shares_of(router, feature):
    """Standardised by its population's deviation, then linear, then a softmax."""
    weight, bias = router.linear.weight.tolist(), router.linear.bias.tolist()
    found = []
    for row in feature.tolist():
        mean = sum(row) / len(row)
        deviation = (sum((one - mean) ** 2 for one in row) / len(row) + 1e-5) ** 0.5
        own = [(one - mean) / deviation for one in row]
        scores = [sum(w * x for w, x in zip(ws, own, strict=True)) for ws in weight]
        found.append(softmax([score + b for score, b in zip(scores, bias, strict=True)]))
    return found


def made(by="logits", balance=0.3):
    term = Routing(teachers=NAMES, by=by, balance=balance, temperature=2.5)
    student = {"logits": draws(B, C, seed=1), "map": draws(B, 5, 2, 3, seed=2)}
    teacher = {f"{name}.logits": draws(B, C, seed=10 + place) for place, name in enumerate(NAMES)}
    routes = term.build(student, teacher, B).double()
    for seed, parameter in enumerate(routes.parameters()):
        parameter.data = draws(*parameter.shape, seed=20 + seed)
    return term, student, teacher, routes.router


def valued(term, student, teacher, router):
    routes = Routes(router, [[]] * len(NAMES))
    return term.values(student, teacher, Batch.of(torch.zeros(B, 1), LABELS), Place(0, 10), routes)


@pytest.mark.parametrize("by", ["logits", "map"])
def test_the_value_is_the_mean_of_the_divergences_by_their_shares(by):
    term, student, teacher, router = made(by)
    found = valued(term, student, teacher, router)
    feature = student["logits"] if by == "logits" else student["map"].mean((2, 3))
    for row, shares in enumerate(shares_of(router, feature)):
        q = softmax([one / 2.5 for one in student["logits"][row].tolist()])
        expected = 0.0
        for share, name in zip(shares, NAMES, strict=True):
            p = softmax([one / 2.5 for one in teacher[f"{name}.logits"][row].tolist()])
            expected += share * 2.5**2 * sum(x * (log(x) - log(y)) for x, y in zip(p, q, strict=True))
        assert abs(float(found[row]) - expected) < 1e-12
    assert max(max(one) for one in shares_of(router, feature)) > 0.6, "shares that differ"


def gate_cost(router, teacher, balance, feature):
    """What the gate is trained by, a sum over examples."""
    total = 0.0
    for row, shares in enumerate(shares_of(router, feature)):
        total += balance * (log(len(shares)) + sum(one * log(one) for one in shares))
        if int(LABELS[row]) != NO_LABEL:
            p = [softmax(teacher[f"{name}.logits"][row].tolist())[int(LABELS[row])] for name in NAMES]
            total -= log(sum(share * one for share, one in zip(shares, p, strict=True)))
    return total


@pytest.mark.parametrize("balance", [0.0, 0.3, 5.0])
def test_the_gates_gradient_is_that_of_its_own_cost_alone(balance):
    term, student, teacher, router = made(balance=balance)
    valued(term, student, teacher, router).sum().backward()
    step = 1e-6
    for parameter in router.parameters():
        flat = parameter.data.view(-1)
        for place in range(parameter.numel()):
            ends = []
            for sign in (1, -1):
                flat[place] += sign * step
                ends.append(gate_cost(router, teacher, balance, student["logits"]))
                flat[place] -= sign * step
            slope = (ends[0] - ends[1]) / (2 * step)
            assert abs(slope - float(parameter.grad.view(-1)[place])) < 1e-6  # of a central difference


def test_the_students_gradient_is_that_of_the_value_with_fixed_shares():
    term, student, teacher, router = made()
    ours = student["logits"].clone().requires_grad_()
    valued(term, {**student, "logits": ours}, teacher, router).sum().backward()
    for row, shares in enumerate(shares_of(router, student["logits"])):
        q = softmax([one / 2.5 for one in student["logits"][row].tolist()])
        each = [softmax([one / 2.5 for one in teacher[f"{name}.logits"][row].tolist()]) for name in NAMES]
        for place in range(C):
            mean = sum(share * p[place] for share, p in zip(shares, each, strict=True))
            assert abs(2.5 * (q[place] - mean) - float(ours.grad[row, place])) < 1e-12


def test_mixture_and_evenness_are_those_of_the_formulas():
    shares, logits = draws(5, 3, seed=3).softmax(1), draws(5, 3, 4, seed=4)
    expected = (shares[:, :, None] * logits.softmax(2)).sum(1)
    torch.testing.assert_close(mixture(shares.log(), logits).exp(), expected, rtol=1e-12, atol=1e-12)
    own = log(3) + (shares * shares.log()).sum(1)
    torch.testing.assert_close(evenness(shares.log()), own, rtol=1e-12, atol=1e-12)
    even = torch.full((1, 3), 1 / 3, dtype=torch.float64).log()
    assert abs(float(evenness(even))) < 1e-12
    one = torch.tensor([[0.0, -800.0, -900.0]], dtype=torch.float64)  # shares that are 0 in float64
    assert abs(float(evenness(one)) - log(3)) < 1e-12
