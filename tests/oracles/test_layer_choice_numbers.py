"""The choice among layers against its formulas in float64, with loops over examples, layers and positions."""

from math import exp, log, sqrt

import pytest
import torch

from limbeck.data.batch import NO_LABEL, Batch
from limbeck.objective import LayerChoice
from limbeck.objective.schedules import Place

B, WIDTH = 5, 3
LENGTHS = (3, 1, 2, 3, 2)


def draws(*shape, seed):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read():
    """Tokens of which some are padding, beside vectors."""
    tokens = torch.arange(3) < torch.tensor(LENGTHS)[:, None]
    return Batch.of(
        {"input_ids": torch.ones(B, 3, dtype=torch.int64), "attention_mask": tokens.long()}, torch.full((B,), NO_LABEL)
    )


def mean_of(feature, row):
    """The mean over the positions of one example that count, a list."""
    own = feature[row]
    if own.ndim == 2:
        return [sum(float(own[n, d]) for n in range(LENGTHS[row])) / LENGTHS[row] for d in range(own.shape[1])]
    return own.tolist()


def mapped(linear, values):
    mean = sum(values) / len(values)
    deviation = sqrt(sum((one - mean) ** 2 for one in values) / len(values) + 1e-5)
    own = [(one - mean) / deviation for one in values]
    return [sum(w * x for w, x in zip(ws, own, strict=True)) + b for ws, b in zip(*weights(linear), strict=True)]


def weights(linear):
    return linear.weight.tolist(), linear.bias.tolist()


def shares_of(part, ours, theirs, row):
    """Of each of ours, those of theirs."""
    found = []
    for query, one in zip(part.queries, ours, strict=True):
        q = mapped(query, mean_of(one, row))
        products = [
            sum(a * b for a, b in zip(q, mapped(key, mean_of(other, row)), strict=True)) / sqrt(WIDTH)
            for key, other in zip(part.keys, theirs, strict=True)
        ]
        found.append([exp(one) / sum(exp(other) for other in products) for one in products])
    return found


def rms(rows):
    """Divided by the root mean square of all elements, whose square is raised by 1e-6."""
    flat = [x for row in rows for x in row]
    size = sqrt(sum(x * x for x in flat) / len(flat) + 1e-6)
    return [[x / size for x in row] for row in rows]


def hint_of(joint, one, other, row):
    """Of vectors, and of tokens of the same width: mean squared distance of both, each divided by its size."""
    if one.ndim == other.ndim == 3:
        a, b = one[row, : LENGTHS[row]].tolist(), other[row, : LENGTHS[row]].tolist()
    else:
        a, b = [mean_of(one, row)], [mean_of(other, row)]
    if isinstance(joint.linear, torch.nn.Linear):
        ws, bs = weights(joint.linear)
        a = [
            [sum(w * x for w, x in zip(own, line, strict=True)) + c for own, c in zip(ws, bs, strict=True)]
            for line in a
        ]
    a, b = rms(a), rms(b)
    distances = [(x - y) ** 2 for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)]
    return sum(distances) / len(distances)


@pytest.mark.parametrize("balance", [0.0, 0.4])
def test_the_value_is_the_mean_of_hints_by_shares(balance):
    term = LayerChoice(student=("vector", "tokens"), teacher=("wide", "tokens"), width=WIDTH, balance=balance)
    student = {"vector": draws(B, 4, seed=1), "tokens": draws(B, 3, 5, seed=2)}
    teacher = {"wide": draws(B, 6, seed=3), "tokens": draws(B, 3, 5, seed=4)}
    student["tokens"][1, 1:], teacher["tokens"][1, 1:] = 1e3, -1e3  # padding
    part = term.build(student, teacher, B).double()
    for seed, parameter in enumerate(part.parameters()):
        parameter.data = draws(*parameter.shape, seed=20 + seed) / 2
    found = term.values(student, teacher, read(), Place(0, 10), part)
    ours, theirs = [student[name] for name in term.student], [teacher[name] for name in term.teacher]
    uneven = 0.0
    for row in range(B):
        expected = 0.0
        for number, (one, shares) in enumerate(zip(ours, shares_of(part, ours, theirs, row), strict=True)):
            joints = part.joints[number * len(theirs) : (number + 1) * len(theirs)]
            each = [hint_of(joint, one, other, row) for joint, other in zip(joints, theirs, strict=True)]
            expected += sum(share * cost for share, cost in zip(shares, each, strict=True)) / len(ours)
            expected += balance * (log(len(shares)) + sum(one * log(one) for one in shares)) / len(ours)
            uneven = max(uneven, *shares)
        assert abs(float(found[row].detach()) - expected) < 1e-12
    assert uneven > 0.7, "shares that differ"
