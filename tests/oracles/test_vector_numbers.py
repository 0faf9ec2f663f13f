"""Losses between vectors of pairs, and their scores, against NumPy."""

import numpy as np
import pytest
import torch

from limbeck import losses
from limbeck.data.batch import REAL, SUPERVISED, Batch
from limbeck.data.task import Answered
from limbeck.data.tasks import Vectors
from limbeck.objective import MarginMse, Partners
from limbeck.objective.schedules import Place

# Both sides are float64 and differ in the order of sums over at most 24 numbers of size 1 to 100: some 1e-14 of the value.
CLOSE = {"rel": 1e-12, "abs": 1e-13}
SIZES = [(2, 1, 3), (5, 4, 2), (9, 3, 8)]


def drawn(rows, *widths):
    draw = np.random.default_rng(rows)
    return [draw.normal(size=(rows, 2, width)) * draw.uniform(0.2, 3, size=(rows, 2, 1)) for width in widths]


def cosine(a, b):
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


def batch(rows):
    every, known = torch.arange(rows), torch.ones(rows, dtype=torch.bool)
    return Batch({"x": every}, {}, {REAL: known, SUPERVISED: known}, every, every)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("score", [cosine, np.dot])
def test_margins_are_those_of_each_other_text(size, score):
    ours, theirs = drawn(*size)
    rows, total = size[0], 0.0
    expected = []
    for i in range(rows):
        apart = []
        for j in range(rows):
            if i != j:
                mine = score(ours[i, 0], ours[i, 1]) - score(ours[i, 0], ours[j, 1])
                apart.append((mine - score(theirs[i, 0], theirs[i, 1]) + score(theirs[i, 0], theirs[j, 1])) ** 2)
        expected.append(np.mean(apart))
        total += sum(apart)
    given = torch.tensor(ours), torch.tensor(theirs)
    assert losses.margin_mse(*given, cosine=score is cosine).tolist() == pytest.approx(expected, **CLOSE)
    term = MarginMse(scores="cosine" if score is cosine else "dot")
    value = term.values({"logits": given[0]}, {"logits": given[1]}, batch(rows), Place(0, 1), None)
    assert float(value) == pytest.approx(total / (rows * (rows - 1)), **CLOSE)  # the mean over all pairs


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.05, 0.7])
def test_partners_are_told_apart_in_both_directions(size, temperature):
    (ours,) = drawn(*size[:2])
    rows = size[0]
    near = np.array([[cosine(ours[i, 0], ours[j, 1]) for j in range(rows)] for i in range(rows)]) / temperature
    found = [
        np.mean([-near[i, i] + np.log(np.sum(np.exp(side[i] - near[i, i]))) + near[i, i] for i in range(rows)])
        for side in (near, near.T)
    ]
    term = Partners(temperature=temperature)
    value = term.values({"logits": torch.tensor(ours)}, {}, batch(rows), Place(0, 1), None)
    assert float(value) == pytest.approx(np.mean(found), **CLOSE)


@pytest.mark.parametrize("size", SIZES)
def test_scores_and_costs_of_pairs(size):
    (ours,) = drawn(*size[:2])
    rows = size[0]
    near = np.array([[cosine(ours[i, 0], ours[j, 1]) for j in range(rows)] for i in range(rows)])
    given = Answered(
        torch.tensor(ours).flatten(0, 1), torch.arange(2).repeat(rows), torch.arange(rows).repeat_interleave(2), rows
    )
    if size[1] > 1:  # in one dimension cosines are 1 or -1, and equal
        place = [list(np.argsort(-near[i], kind="stable")).index(i) + 1 for i in range(rows)]
        assert Vectors().scores(given).tolist() == pytest.approx([1 / one for one in place], **CLOSE)
    assert Vectors().costs(given).tolist() == pytest.approx(1 - np.diag(near), **CLOSE)
