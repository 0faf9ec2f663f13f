"""How a teacher learns to teach, worked out again: two numbers by hand, a network by `torch.func`, both by finite differences."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.fakes.experiments import CLASSES, WIDTH, examples, smooth, stage
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from limbeck.data.examples import Examples
from limbeck.objective import Decoupled, Dist, Labels, SoftTargets
from limbeck.objective.schedules import Place
from limbeck.teachers.learning import LearningTeacher
from limbeck.training.pilot import Pilot
from limbeck.training.settings import Sgd, Training

PLAIN = Training(
    steps=1, batch_size=6, optimizer=Sgd(name="sgd", learning_rate=1.0, momentum=0.0), warmup=0.0, decay="none"
)
TERMS = (Labels(weight=0.4), SoftTargets(weight=0.7, temperature=3.0))


class One(nn.Module):
    """Two classes told apart by one number a row: logits 0 and w x."""

    def __init__(self, w: float):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w], dtype=torch.float64))

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), self.w * x], 1)


class Line:
    """Rows of one number."""

    reader, texts, fingerprint = SimpleNamespace(fingerprint="line"), None, "line"

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def read(self, ids, views):
        return {"x": self.x[ids]}


def learnt(student, teacher, lesson, quiz, terms=TERMS, trial_rate=0.7):
    """The teacher's gradient as a Pilot finds it: what a plain step of size 1 takes from its weights."""
    training = PLAIN.model_copy(update={"batch_size": len(lesson)})
    one = replace(stage(terms=terms, examples=lesson), training=training, teacher=LearningTeacher(teacher))
    pilot = Pilot(one, student, quiz, trial_rate, 1.0, "cpu")
    ids = lesson.rows
    pilot.written(student, [lesson.batch(ids, torch.zeros_like(ids))], Place(0, 1))
    before, after = teacher.state_dict(), one.teacher.module.state_dict()
    return {name: before[name] - after[name] for name in before}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def quiz_after(phi, w, x, y, quiz_x, quiz_y, rate):
    """The quiz's cross-entropy after the trial step, from the formulas of both losses alone."""
    t = 3.0
    ce = (sigmoid(w * x) - y) * x
    kl = t**2 * (sigmoid(w * x / t) - sigmoid(phi * x / t)) * x / t
    stepped = w - rate * (0.4 * ce.mean() + 0.7 * kl.mean())
    z = stepped * quiz_x
    return (np.logaddexp(0, z) - quiz_y * z).mean()


@pytest.mark.parametrize("seed", range(4))
def test_two_numbers_by_hand(seed):
    draw = np.random.default_rng(seed)
    x, w, phi, rate = draw.normal(size=12), *draw.normal(size=2), float(draw.uniform(0.1, 3))
    y = (draw.uniform(size=12) < 0.5).astype(float)
    whole = Examples(
        Line(torch.tensor(x)[:, None]),
        torch.arange(12),
        torch.tensor(y).long(),
        torch.ones(12, dtype=torch.bool),
        ("a", "b"),
    )
    lesson, quiz = replace(whole, rows=torch.arange(7)), replace(whole, rows=torch.arange(7, 12))
    (found,) = learnt(One(w), One(phi), lesson, quiz, trial_rate=rate)["w"].tolist()
    own = (w, x[:7], y[:7], x[7:], y[7:], rate)
    h = 1e-5
    differences = (quiz_after(phi + h, *own) - quiz_after(phi - h, *own)) / (2 * h)
    # -rate * dL_quiz/dw' * d^2 L/(dw dphi)
    t = 3.0
    p = sigmoid(phi * x[:7] / t)
    crossed = 0.7 * (-t * x[:7] * p * (1 - p) * x[:7] / t).mean()
    ce = (sigmoid(w * x[:7]) - y[:7]) * x[:7]
    kl = t * (sigmoid(w * x[:7] / t) - p) * x[:7]
    stepped = w - rate * (0.4 * ce.mean() + 0.7 * kl.mean())
    slope = ((sigmoid(stepped * x[7:]) - y[7:]) * x[7:]).mean()
    assert found == pytest.approx(-rate * slope * crossed, rel=1e-12)
    assert found == pytest.approx(differences, rel=1e-6, abs=1e-11)
    assert found != 0


def networks():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student, teacher = smooth().double(), nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    return student, teacher.double()


def doubled(rows):
    whole = examples(40, labelled=30)
    whole.table.x = whole.table.x.double()
    return replace(whole, rows=rows)


LOSSES = {
    "soft targets": (
        SoftTargets(weight=0.6, temperature=2.0),
        lambda q, p, y: 4 * (F.softmax(p / 2, -1) * (F.log_softmax(p / 2, -1) - F.log_softmax(q / 2, -1))).sum(-1),
    ),
    "squared": (
        SoftTargets(weight=0.6, loss="probability-mse", temperature=2.0),
        lambda q, p, y: 4 * (F.softmax(q / 2, -1) - F.softmax(p / 2, -1)).square().sum(-1),
    ),
    "logits": (
        SoftTargets(weight=0.6, loss="logit-mse"),
        lambda q, p, y: (q - p - (q - p).mean(-1, keepdim=True)).square().mean(-1),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_network_as_torch_func_and_finite_differences_have_it(name):
    term, formula = LOSSES[name]
    student, teacher = networks()
    lesson, quiz = doubled(torch.arange(24, 40)), doubled(torch.arange(10))
    found = learnt(student, teacher, lesson, quiz, (Labels(weight=0.3), term), trial_rate=0.4)
    x, y, seen = lesson.table.x[24:], lesson.labels[24:], torch.arange(16) < 6
    theta = {name: one.detach() for name, one in student.named_parameters()}
    phi = {name: one.detach() for name, one in teacher.named_parameters()}

    def loss(weights, taught):
        said, theirs = functional_call(student, weights, x), functional_call(teacher, taught, x)
        hard = F.cross_entropy(said, y, reduction="none")[seen].sum() / 6
        return 0.3 * hard + 0.6 * formula(said, theirs, y).mean()

    def after(taught):
        slope = grad(loss)(theta, taught)
        stepped = {name: theta[name] - 0.4 * slope[name] for name in theta}
        return F.cross_entropy(functional_call(student, stepped, quiz.table.x[:10]), quiz.labels[:10])

    expected = grad(after)(phi)
    for name in expected:
        # both are float64 sums of some hundred products
        assert torch.allclose(found[name], expected[name], rtol=1e-9, atol=1e-14), name
    draw = torch.Generator().manual_seed(0)
    towards = {name: torch.randn(one.shape, generator=draw, dtype=one.dtype) for name, one in phi.items()}
    h = 1e-4
    ahead, behind = (after({name: phi[name] + sign * h * towards[name] for name in phi}) for sign in (1, -1))
    along = sum((found[name] * towards[name]).sum() for name in phi)
    assert float(along) == pytest.approx(float((ahead - behind) / (2 * h)), rel=1e-5)


@pytest.mark.parametrize("term", [Decoupled(weight=0.6), Dist(weight=0.6)], ids=lambda term: term.name)
def test_other_terms_between_logits_by_finite_differences(term):
    """The quiz after the trial step, asked again with the teacher moved a little: nothing of the way is taken for constant."""
    student, teacher = networks()
    lesson, quiz = doubled(torch.arange(12, 30)), doubled(torch.arange(10))
    found = learnt(student, teacher, lesson, quiz, (term,))
    draw = torch.Generator().manual_seed(1)
    towards = {
        name: torch.randn(one.shape, generator=draw, dtype=one.dtype) for name, one in teacher.named_parameters()
    }

    def after(h):
        moved = {name: one.detach() + h * towards[name] for name, one in teacher.named_parameters()}
        x = lesson.table.x[12:30]
        batch = lesson.batch(lesson.rows, torch.zeros_like(lesson.rows))
        theirs = functional_call(teacher, moved, x)
        values = term.values({"logits": student(x)}, {"logits": theirs}, batch, Place(0, 1), None)
        slopes = torch.autograd.grad(0.6 * values.mean(), list(student.parameters()))
        names = [name for name, _ in student.named_parameters()]
        stepped = {
            name: one.detach() - 0.7 * slope
            for name, one, slope in zip(names, student.parameters(), slopes, strict=True)
        }
        return float(F.cross_entropy(functional_call(student, stepped, quiz.table.x[:10]), quiz.labels[:10]))

    h = 1e-6  # the way is steep: at 1e-4 its third derivative still shows
    along = sum((found[name] * towards[name]).sum() for name in towards)
    assert float(along) == pytest.approx((after(h) - after(-h)) / (2 * h), rel=1e-5)
