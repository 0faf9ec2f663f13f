"""A kernel in the place of torch: asked only where it may be, heard where it is asked; by a stand-in."""

from types import SimpleNamespace

import pytest
import torch

from limbeck.losses import divergences as d
from limbeck.losses import kernels
from limbeck.losses.sparse import Even, Given, Sampled
from limbeck.losses.storages import Dense
from limbeck.objective.evaluate import Asked, streamed

KNOWN = [(d.ForwardKl(), 0.0), (d.ReverseKl(), 1.0), (d.JensenShannon(0.3), 0.3)]
each = pytest.mark.parametrize(("divergence", "beta"), KNOWN, ids=lambda one: type(one).__name__)


def logs(seed, dtype=torch.float32):
    return torch.randn(7, 31, generator=torch.Generator().manual_seed(seed), dtype=dtype).log_softmax(-1)


@pytest.fixture
def heard(monkeypatch):
    """What a stand-in was asked; it answers as the divergences themselves do, in the place of its first argument."""
    calls = []

    def call(name, log_q, log_p, labels, beta, ignored, divided, impl):
        calls.append((name, labels, beta, divided, impl))
        definition = {0.0: d.ForwardKl(), 1.0: d.ReverseKl()}.get(beta) or d.JensenShannon(beta)
        with monkeypatch.context() as here:
            here.setattr(kernels, "accelerated", lambda _: False)
            value, slope = definition.parts(log_q, log_q.exp(), log_p, log_p.exp())
        return value, log_q.copy_(slope)

    monkeypatch.setattr(kernels, "accelerated", lambda _: True)
    monkeypatch.setattr(kernels, "kernel", lambda: call)
    return calls


@each
def test_a_kernel_is_asked_and_leaves_what_it_was_given(divergence, beta, heard):
    log_q, log_p = logs(0), logs(1)
    given = log_q.clone(), log_p.clone()
    value, slope = divergence.parts(log_q, log_q.exp(), log_p, log_p.exp())
    assert heard == [("jsd_loss_and_grad", None, beta, 1.0, "nvidia-triton")]
    assert torch.equal(log_q, given[0])
    assert torch.equal(log_p, given[1])
    wide = [one.double() for one in given]
    exact, slopes = divergence.parts(wide[0], wide[0].exp(), wide[1], wide[1].exp())
    assert len(heard) == 1, "float64 is computed by torch"
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(slope.double(), slopes, rtol=1e-4, atol=1e-6)


@each
def test_a_training_hears_it(divergence, beta, heard):
    student, teacher = logs(0).requires_grad_(), logs(1)
    counts = torch.arange(7.0)
    loss, _ = streamed(Dense(student), [Asked(divergence, Dense(teacher), counts, scale=0.5, temperature=2.0)])
    assert heard
    (found,) = torch.autograd.grad(loss, student)
    wide = student.detach().double().requires_grad_()
    exact = (d.dense(divergence, wide / 2, teacher.double() / 2) * counts).sum() / 2
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.double(), torch.autograd.grad(exact, wide)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["draws", "labels", "smoothing"])
def test_weights_that_are_no_probabilities_are_not_given_to_it(kind, heard, monkeypatch):
    """It would take the exponential of their ``log_p`` for them: of smoothed labels 1 for each class."""
    student, labels = logs(0).requires_grad_(), torch.arange(7)
    ids, counts = torch.arange(14).view(7, 2), torch.tensor([[3, 1]]).expand(7, 2)
    known = {
        "draws": Sampled(ids, counts, 31, torch.full((7,), 2.0)),
        "labels": Given(labels, 31),
        "smoothing": Even(labels, 31),
    }[kind]

    def learnt():
        loss, _ = streamed(Dense(student), [Asked(d.ForwardKl(), known, torch.ones(7))])
        return loss.detach(), *torch.autograd.grad(loss, student)

    found = learnt()
    assert not heard
    monkeypatch.setattr(kernels, "accelerated", lambda _: False)
    assert all(torch.equal(ours, plain) for ours, plain in zip(found, learnt(), strict=True))


def test_with_a_graph_torch_computes(heard):
    log_q, log_p = logs(0).requires_grad_(), logs(1)
    assert d.ForwardKl().parts(log_q, log_q.exp(), log_p, log_p.exp())[0].requires_grad
    assert not heard


@pytest.mark.parametrize("divergence", [d.ContinuousJensenShannon(0.3), d.SkewKl(), d.TotalVariation()], ids=str)
def test_other_divergences_are_not_asked_of_it(divergence, heard):
    divergence.parts(logs(0), logs(0).exp(), logs(1), logs(1).exp())
    assert not heard


def test_without_it_and_on_a_processor_torch_computes(monkeypatch):
    assert kernels.jensen_shannon(0.5, logs(0), logs(1)) is None
    assert kernels.versions() == {}
    monkeypatch.setattr(kernels, "accelerated", lambda _: True)
    monkeypatch.setattr(kernels, "kernel", lambda: None)
    assert kernels.jensen_shannon(0.5, logs(0), logs(1)) is None


@pytest.mark.parametrize("lacking", ["all of it", "the part that is asked"])
def test_an_older_one_is_none(lacking, monkeypatch):
    def absent(name):
        if lacking == "all of it":
            raise ImportError(name)
        return SimpleNamespace()

    monkeypatch.setattr(kernels.importlib, "import_module", absent)
    assert kernels.kernel.__wrapped__() is None
