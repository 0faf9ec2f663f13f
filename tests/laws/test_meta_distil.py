"""Laws of a teacher that learns to teach: a trial leaves no trace, a teacher that does not learn is fixed, a quiz is apart."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.contracts.test_regime_contract import answered, known
from tests.fakes.experiments import (
    HINTS,
    LABELS,
    SGD,
    SOFT,
    TRAINING,
    Clouds,
    Knows,
    Net,
    Watching,
    control_c,
    plan,
    same,
    smooth,
    stage,
    teacher,
)

import limbeck
from limbeck.errors import Interrupted, LimbeckError
from limbeck.losses import dist, dkd, kl_divergence, logit_mse, nkd, probability_mse, soft_cross_entropy, wsld
from limbeck.losses.taught import followed
from limbeck.objective import SoftTargets
from limbeck.objective.schedules import Place
from limbeck.regimes.meta_distil import FIXED, MetaDistil, quiz_of
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.precision import Asking
from limbeck.training.loop import train
from limbeck.training.order import Order, Steps

TERMS = (LABELS, SOFT)


def meta(regime=None, **changes):
    return (regime or MetaDistil()).stages(plan(terms=TERMS, **{"labelled": 20, **changes}))[0]


def piloted(one, student):
    """A pen whose student is in training, and the first step's batches."""
    begun = one.begun(student)
    order = Order(one.examples.rows, one.training.batch_size, 0, one.views)
    return begun.writing.pen(begun, student), begun.teacher, Steps(one.examples, order, one.training.accumulate)[0]


@pytest.mark.parametrize("make", [Net, smooth])
@pytest.mark.parametrize("optimizer", [TRAINING.optimizer, SGD], ids=["adamw", "sgd"])
def test_a_teacher_that_does_not_learn_is_a_fixed_one_to_the_bit(make, optimizer, tmp_path):
    one = meta(MetaDistil(teacher_learning_rate=0.0), training=TRAINING.model_copy(update={"optimizer": optimizer}))
    one = replace(one, start=stage(make).start)
    plain = replace(one, past=None, writing=None, teacher=teacher())
    found, expected = train(one, tmp_path / "meta"), train(plain, tmp_path / "plain")
    assert same_but_told(found, expected)
    learnt = train(meta(), tmp_path / "learning")
    assert not same_but_told(learnt, expected)


def same_but_told(one, other):
    """Bit for bit, but for the quiz, which only one of them has."""

    def told(outcome):
        return [
            {**point, "parts": {name: value for name, value in point["parts"].items() if name != "quiz"}}
            for point in outcome.points
        ]

    return same(replace(one, points=told(one)), replace(other, points=told(other)))


def test_the_trial_leaves_no_trace():
    one = meta()
    student = one.model().train()
    before, state = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    pen, learning, micros = piloted(one, student)
    theirs = copy.deepcopy(learning.module.state_dict())
    given = pen.written(student, micros, Place(3, 12))
    assert all(a is b for a, b in zip(given, micros, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items()), "buffers too"
    assert all(one.grad is None for one in [*student.parameters(), *learning.module.parameters()])
    assert all(part.training for part in student.modules())
    moved = {name for name, value in learning.module.state_dict().items() if not torch.equal(value, theirs[name])}
    assert moved == {name for name, _ in learning.module.named_parameters()}, "and none of its statistics"
    assert not any(part.training for part in learning.module.modules())
    assert not torch.equal(learning.module.head.weight, teacher().module.head.weight), (
        "a copy learns, and not who was given"
    )
    assert set(one.start.module().state_dict()) == set(student.state_dict()), "nothing hangs on the student"


@pytest.mark.parametrize("seed", range(5))
def test_a_small_step_of_the_teacher_makes_the_quiz_easier(seed):
    """Asked again with the same batch, the quiz after the trial step costs less: what its gradient promises."""
    plainly = TRAINING.model_copy(update={"optimizer": SGD.model_copy(update={"momentum": 0.0}), "warmup": 0.0})
    regime = MetaDistil(trial_learning_rate=1.0, teacher_learning_rate=1e-2)
    one = replace(meta(regime, training=plainly, seed=seed), start=stage(smooth, seed=seed).start)
    student = one.model().train()
    pen, _, micros = piloted(one, student)
    costs = []
    for _ in range(5):
        pen.written(student, micros, Place(0, 12))
        costs.append(pen.told()["quiz"])
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_micro_batches_teach_as_one():
    found = []
    for accumulate in (1, 4):
        one = meta(training=TRAINING.model_copy(update={"accumulate": accumulate, "optimizer": SGD}))
        one = replace(one, start=stage(smooth).start)
        student = one.model().train()
        pen, learning, micros = piloted(one, student)
        assert len(micros) == accumulate
        pen.written(student, micros, Place(5, 12))
        found.append(learning.module.state_dict())
    # sums in another order, in float32
    assert all(torch.allclose(found[0][name], found[1][name], rtol=1e-6, atol=1e-8) for name in found[0])


def test_a_student_that_is_its_teacher_is_taught_too():
    """No gap between them, and so no slope in what they differ by, yet a finite gradient for the teacher."""
    net = smooth()
    one = meta(teacher=LocalTeacher(copy.deepcopy(net).requires_grad_(False), "same"))
    pen, learning, micros = piloted(one, net.train())
    pen.written(net, micros, Place(6, 12))
    assert all(bool(one.isfinite().all()) for one in learning.module.parameters())
    assert not torch.equal(learning.module.head.weight, net.head.weight)


def test_frozen_weights_take_no_trial_step():
    one = replace(meta(), start=stage(smooth).start, frozen=("body.*",))
    student = one.model().train()
    pen, learning, micros = piloted(one, student)
    pen.written(student, micros, Place(5, 12))
    assert not torch.equal(learning.module.head.weight, teacher().module.head.weight)


def test_the_quiz_is_answered_in_evaluation_mode():
    one = replace(meta(MetaDistil(trial_learning_rate=1e-30)), start=stage(lambda: Net(norm=False, drop=0.5)).start)
    student = one.model().train()
    pen, _, micros = piloted(one, student)
    pen.written(student, micros, Place(0, 12))
    quiz = one.writing.quiz
    with torch.no_grad():
        said = student.eval()(quiz.table.x[quiz.rows])
    expected = torch.nn.functional.cross_entropy(said, quiz.labels[quiz.rows])
    assert pen.told()["quiz"] == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("after", [1, 5, 8])
def test_stopped_and_resumed_is_uninterrupted(after, tmp_path):
    one = meta(MetaDistil(teacher_learning_rate=1e-2))
    whole = train(one, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(one, tmp_path / "cut", Watching(after=after, act=control_c))
    assert same(train(one, tmp_path / "cut"), whole)
    assert all(point["parts"]["quiz"] > 0 for point in whole.points)
    assert whole.weights.keys() == one.start.module().state_dict().keys(), "the teacher is not delivered"


# --- the quiz


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_quiz_is_apart_and_of_every_class(share):
    regime, one = MetaDistil(quiz=share), plan(labelled=20, terms=TERMS)
    (found,) = regime.stages(one)
    quiz, rest = (set(part.rows.tolist()) for part in (found.writing.quiz, found.examples))
    assert len(quiz) == round(share * 20)
    assert quiz | rest == set(one.splits.train.rows.tolist())
    assert not quiz & rest
    assert quiz <= set(range(20)), "only rows whose label may be seen"
    read = Steps(found.examples, Order(found.examples.rows, 16, 0, 2))
    assert not quiz & {row for step in range(20) for batch in read[step] for row in batch.ids.tolist()}
    for label in range(3):
        count = int((one.splits.train.labels[list(quiz)] == label).sum())
        assert abs(count - len(quiz) / 3) <= 1
    assert quiz_of(one.splits.train, share, 0).tolist() == sorted(quiz)
    assert quiz_of(one.splits.train, share, 1).tolist() != sorted(quiz)


@pytest.mark.parametrize(("labelled", "share"), [(20, 0.05), (20, 0.97), (4, 0.5), (3, 0.5)])
def test_a_quiz_that_lacks_a_class_is_refused(labelled, share):
    with pytest.raises(
        LimbeckError, match=rf"of the {labelled} labelled rows .*row of each of the 3 classes.*data\.labelled"
    ):
        MetaDistil(quiz=share).stages(plan(labelled=labelled, terms=TERMS))


def test_the_others_have_the_rows_of_the_quiz_too():
    one, regime = plan(labelled=20, terms=TERMS), MetaDistil()
    arms = regime.arms(one)
    assert list(arms) == ["control", "pseudo_labels", FIXED, "distilled"]
    assert list(regime.arms(plan(terms=TERMS))) == ["control", FIXED, "distilled"]
    control, fixed, own = (answered(arms[name](one), known)[0][-1] for name in ("control", FIXED, "distilled"))
    assert len(control.examples) == 20
    assert len(fixed.examples) == 50
    assert len(own.examples) == 46
    assert fixed.terms == own.terms


def test_settings_and_rows_are_in_the_arms_name():
    def key(one):
        return one.identity(one.start.module())

    first = key(meta())
    assert key(meta()) == first
    for other in (MetaDistil(teacher_learning_rate=1e-3), MetaDistil(trial_learning_rate=1.0), MetaDistil(quiz=0.3)):
        assert key(meta(other))["writing"] != first["writing"]
    assert key(meta(teacher=teacher(seed=6)))["past"] != first["past"]


# --- what is refused


class Elsewhere:
    """A teacher that is no model here."""

    fingerprint, provides, module = "elsewhere", teacher().provides, None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"teacher": Elsewhere()}, "must be a model that is here"),
        ({"asking": Asking(precision="bf16")}, r"teacher\.precision"),
        ({"terms": (LABELS,)}, "add soft-targets"),
        ({"terms": (LABELS, SOFT, HINTS)}, "'hints' reads 'body'"),
        ({"terms": (LABELS, SoftTargets(gate="teacher-certainty"))}, "'soft-targets' has a gate"),
        ({"terms": (LABELS, SoftTargets(weight={"schedule": "uncertainty"}))}, "something of its own"),
        ({"terms": (LABELS, SoftTargets(temperature={"schedule": "learned"}))}, "something of its own"),
    ],
)
def test_what_cannot_be_followed_is_refused(changes, match):
    with pytest.raises(LimbeckError, match=match):
        MetaDistil().stages(plan(**{"labelled": 20, "terms": TERMS, **changes}))


def test_a_term_that_takes_its_teacher_for_a_constant_is_refused(monkeypatch):
    monkeypatch.setattr(
        limbeck.losses, "kl_divergence", lambda s, t, temperature: kl_divergence(s, t.detach(), temperature)
    )
    with pytest.raises(LimbeckError, match="'soft-targets' takes its teacher for a constant"):
        meta()


def test_a_trial_that_leads_nowhere_is_named():
    one = meta(MetaDistil(trial_learning_rate=1e38))
    student = one.model().train()
    pen, _, micros = piloted(one, student)
    with pytest.raises(LimbeckError, match=r"before step 0 .*not finite.*trial-learning-rate"):
        pen.written(student, micros, Place(0, 12))


# --- the teacher's side of a loss


LABELLED = (dkd, nkd, wsld)


@pytest.mark.parametrize("loss", [kl_divergence, soft_cross_entropy, probability_mse, logit_mse, dist, *LABELLED])
def test_followed_changes_no_value_and_opens_the_way_to_the_teacher(loss):
    draw = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 5, 4, generator=draw, dtype=torch.float64)
    theirs.requires_grad_()
    more = (torch.arange(5) % 4,) if loss in LABELLED else ()
    ours.requires_grad_()
    plain = loss(ours, theirs, *more)
    (shut,) = torch.autograd.grad(plain.sum(), theirs, allow_unused=True)
    with followed():
        open_ = loss(ours, theirs, *more)
    (slope,) = torch.autograd.grad(open_.sum(), theirs)
    assert shut is None
    assert torch.equal(plain, open_)
    assert slope.abs().max() > 0
    again = loss(ours, theirs, *more)
    assert torch.autograd.grad(again.sum(), theirs, allow_unused=True)[0] is None, "afterwards it is shut again"


# --- a whole run


def test_a_run_says_what_learning_to_teach_adds(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    table = Clouds(150)
    rows = [(table.x[row], int(table.labels[row])) for row in range(150)]
    result = limbeck.distill(
        Knows(),
        Net,
        rows,
        objective=(LABELS, SoftTargets(weight=0.7)),
        training={"steps": 20, "batch-size": 16},
        labelled=30,
        seeds=2,
        regime="meta-distil",
        quiet=True,
        out=tmp_path / "out",
    )
    assert list(result.evidence.arms.present()) == ["teacher", "control", "pseudo_labels", FIXED, "distilled"]
    assert result.evidence.attribution[-1].step == "a teacher that learns to teach"
    assert "a teacher that learns to teach" in result.report_path.read_text()
