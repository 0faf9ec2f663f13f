"""Liger's kernel against float64, by Triton's interpreter on a processor (make kernels)."""

import os
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.losses import divergences as d
from limbeck.losses import kernels
from limbeck.losses.sparse import TopK
from limbeck.losses.storages import Chunked, Dense, Head, whole
from limbeck.objective.evaluate import Asked, streamed

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(
        find_spec("liger_kernel") is None or os.environ.get("TRITON_INTERPRET") != "1",
        reason="Liger's kernels are not installed, or not interpreted: make kernels does both",
    ),
]
KNOWN = [d.ForwardKl(), d.ReverseKl(), d.JensenShannon(0.1), d.JensenShannon(), d.JensenShannon(0.9)]
each = pytest.mark.parametrize("divergence", KNOWN, ids=str)
# float32: a logarithm near 1e4 has an error of 5e-4, and is multiplied with a probability of at most 1
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    assert kernels.kernel() is not None
    monkeypatch.setattr(kernels, "accelerated", lambda _: True)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(
    which=st.sampled_from(KNOWN),
    rows=st.integers(1, 5),
    classes=st.sampled_from([1, 2, 100, 4095, 4096, 4097, 9000]),  # a block of the kernel has 4,096
    scale=st.sampled_from([0.0, 1e-3, 1.0, 10.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_it_gives_contributions_and_slopes(which, rows, classes, scale, seed):
    q, p = (
        (scale * draws(rows, classes, seed=2 * seed + side)).float().log_softmax(-1).clamp_min(d.FLOOR)
        for side in (0, 1)
    )
    found = kernels.jensen_shannon(getattr(which, "beta", float(which == d.ReverseKl())), q, p)
    wide = q.double(), p.double()
    for ours, exact in zip(found, which.parts(wide[0], wide[0].exp(), wide[1], wide[1].exp()), strict=True):
        torch.testing.assert_close(ours.double(), exact, **CLOSE)


@each
def test_what_cannot_be_gives_no_nan(divergence):
    hard = torch.full((2, 3), -torch.inf).scatter(1, torch.tensor([[0], [1]]), 0.0).clamp_min(d.FLOOR)
    other = hard.flip(0)
    for q, p in ((hard, hard), (hard, other), (hard, torch.full((2, 3), 1 / 3).log())):
        value, slope = divergence.parts(q, q.exp(), p, p.exp())
        wide = [one.double() for one in (q, q.exp(), p, p.exp())]
        for ours, exact in zip((value, slope), divergence.parts(*wide), strict=True):
            # the mixture is floored at the smallest float in ours, nowhere in theirs: all are beside a probability of 0
            torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)


@each
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("head", [(None, 1.0), (3.0, 0.5)], ids=["plain", "softcap and scale"])
def test_a_training_by_it_has_the_gradient_of_the_whole(divergence, temperature, head):
    rows, width, classes = 9, 6, 4200
    student = Chunked(
        draws(rows, width).float().requires_grad_(),
        Head(draws(classes, width, seed=1).float().requires_grad_(), None, *head),
    )
    teacher = Chunked(draws(rows, 5, seed=2).float(), Head(draws(classes, 5, seed=3).float()))
    counts = torch.arange(rows) / rows  # one row counts nothing
    loss, _ = streamed(student, [Asked(divergence, teacher, counts, 0.7, temperature)])
    found = torch.autograd.grad(loss, [student.hidden, student.head.weight])

    wide = [one.detach().double().requires_grad_() for one in (student.hidden, student.head.weight)]
    logits = whole(Chunked(wide[0], Head(wide[1], None, *head)))
    theirs = teacher.hidden.double() @ teacher.head.weight.double().t()
    exact = 0.7 * (d.dense(divergence, logits / temperature, theirs / temperature) * counts.double()).sum()
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
    for ours, own in zip(found, torch.autograd.grad(exact, wide), strict=True):
        torch.testing.assert_close(ours.double(), own, rtol=1e-4, atol=1e-5)


def test_a_stored_teacher_and_labels_stand_beside_it():
    rows, classes = 5, 300
    student = draws(rows, classes).float().requires_grad_()
    values, ids = draws(rows, classes, seed=1).float().log_softmax(-1).topk(20)
    known = TopK(ids, values, classes)
    asked = [Asked(d.JensenShannon(), known, torch.ones(rows)), Asked(d.ForwardKl(), known, torch.ones(rows))]
    loss, _ = streamed(Dense(student), asked)
    (found,) = torch.autograd.grad(loss, student)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "accelerated", lambda _: False)
        plain, _ = streamed(Dense(student), asked)
        (ours,) = torch.autograd.grad(plain, student)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-6)
