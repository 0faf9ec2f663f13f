"""Laws of a student that is its own teacher: the average follows it as the formula says, and survives a stop."""

import pytest
import torch
from accelerate import Accelerator
from tests.contracts.test_regime_contract import answered, known
from tests.fakes.experiments import HINTS, LABELS, SOFT, Net, Watching, control_c, plan, same, smooth, stage, teacher
from torch import nn

import limbeck
from limbeck.advice.preflight import dry_run
from limbeck.data.batch import Batch
from limbeck.errors import Interrupted, LimbeckError
from limbeck.objective import SoftTargets
from limbeck.objective.schedules import Place
from limbeck.recipe.reading import bundled, read
from limbeck.regimes.ema import Ema
from limbeck.regimes.snapshot import Snapshot
from limbeck.run.deeds import label
from limbeck.teachers.past import MovingAverage
from limbeck.training.loop import evaluate, train

LOGITS = frozenset({"logits"})


def walked(student, weights, momentum):
    """The average after the student had these weights, one step each."""
    average = MovingAverage(student, momentum)
    for step, value in enumerate(weights, 1):
        with torch.no_grad():
            student.weight.copy_(value)
        average.stepped(student, Place(step, len(weights)))
    return average.module.weight


def test_the_average_is_the_recursion_of_the_paper():
    student = nn.Linear(3, 2, bias=False).double()
    weights = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, expected = walked(student, weights, 0.7), torch.full((2, 3), float("nan"), dtype=torch.float64)
    for step, value in enumerate(weights, 1):
        m = min(0.7, 1 - 1 / step)
        expected = value if m == 0 else m * expected + (1 - m) * value
    assert torch.allclose(found, expected, atol=1e-14)
    assert torch.equal(student.weight, weights[-1]), "the student itself is not touched"


def test_without_memory_it_is_the_student_and_at_first_the_plain_mean():
    student = nn.Linear(3, 2, bias=False).double()
    weights = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(walked(student, weights, 0.0), weights[-1])
    assert torch.allclose(walked(student, weights, 0.999), weights.mean(0), atol=1e-14), (
        "1 - 1/n gives every step its share"
    )


def test_buffers_are_the_students_own():
    student = Net()
    average = MovingAverage(student, 0.9)
    student(torch.randn(20, 12))
    average.stepped(student, Place(3, 9))
    assert torch.equal(average.module.norm.running_mean, student.norm.running_mean)
    assert average.module.norm.num_batches_tracked == 1
    assert not any(one.requires_grad for one in average.module.parameters())
    assert not average.module.training


def test_it_survives_being_saved():
    one, two = (MovingAverage(smooth(), 0.9) for _ in range(2))
    one.stepped(smooth(), Place(4, 9))
    two.load_state_dict(one.state_dict())
    batch = Batch.of(torch.randn(5, 12))
    assert torch.equal(one.observe(batch, LOGITS)["logits"], two.observe(batch, LOGITS)["logits"])


@pytest.mark.parametrize("after", [1, 5, 8])
def test_stopped_and_resumed_is_uninterrupted(after, tmp_path):
    one = stage(teacher=None, terms=(LABELS, SOFT, HINTS), past=Ema(momentum=0.8), checkpoint_every=None)
    whole = train(one, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(one, tmp_path / "cut", Watching(after=after, act=control_c))
    assert same(train(one, tmp_path / "cut"), whole)
    assert not same(
        train(stage(teacher=None, terms=(LABELS, SOFT, HINTS), past=Ema(momentum=0.1)), tmp_path / "x"), whole
    )


def test_what_it_says_is_learnt(tmp_path):
    """The first step has nothing to learn from a copy in which nothing rests; the next ones do."""
    watching = Watching()
    train(stage(smooth, teacher=None, terms=(LABELS, SOFT), past=Ema(momentum=0.9)), tmp_path, watching)
    said = [losses["soft-targets"] for losses in watching.losses]
    assert said[0] == 0
    assert all(value > 0 for value in said[2:]), "after one step the average is the student, after two it lags behind"
    assert dry_run(stage(smooth, teacher=None, terms=(LABELS, SOFT), past=Ema()), "cpu").parts["soft-targets"] == 0


def test_the_settings_are_in_the_arms_name():
    def key(**changes):
        one = stage(teacher=None, terms=(LABELS, SOFT), **changes)
        return one.identity(one.start.module())

    assert "past" not in key()
    assert key(past=Ema(momentum=0.9))["past"] != key(past=Ema(momentum=0.8))["past"]


# --- the average is delivered


class Weights(Watching):
    """What the student was after every step."""

    def __init__(self):
        super().__init__()
        self.found = []

    def stepped(self, student, place):
        self.found.append({name: value.detach().clone() for name, value in student.named_parameters()})


def test_what_is_delivered_is_the_average_of_the_steps(tmp_path):
    weights = Weights()
    outcome = train(stage(smooth, average=0.7, keep="last"), tmp_path, weights)
    for name in weights.found[0]:
        expected = torch.full_like(weights.found[0][name], float("nan"), dtype=torch.float64)
        for step, found in enumerate(weights.found, 1):
            m = min(0.7, 1 - 1 / step)
            expected = found[name].double() if m == 0 else m * expected + (1 - m) * found[name].double()
        # twelve roundings of float32
        torch.testing.assert_close(outcome.weights[name].double(), expected, rtol=1e-6, atol=1e-7)


def test_it_alters_no_step_and_is_what_is_judged(tmp_path):
    plain, averaged = Weights(), Weights()
    one = stage(average=0.9, keep="last")
    train(stage(keep="last"), tmp_path / "plain", plain)
    outcome = train(one, tmp_path / "averaged", averaged)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(plain.found, averaged.found, strict=True) for name in a)
    module = one.start.module()
    module.load_state_dict(outcome.weights)
    again = evaluate(module.eval(), one.validation, Accelerator())
    assert {name: outcome.metrics[name] for name in again} == again
    assert not all(torch.equal(outcome.weights[name], averaged.found[-1][name]) for name in averaged.found[-1])


@pytest.mark.parametrize("after", [1, 7])
def test_stopped_and_resumed_the_average_goes_on(after, tmp_path):
    one = stage(average=0.8, checkpoint_every=None)
    whole = train(one, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(one, tmp_path / "cut", Watching(after=after, act=control_c))
    assert same(train(one, tmp_path / "cut"), whole)


def test_the_average_takes_the_memory_of_another_student():
    plain, averaged = (dry_run(stage(average=one), "cpu").memory for one in (None, 0.5))
    assert averaged.student == 2 * plain.student
    assert averaged.total == plain.total + plain.student


def test_the_average_is_in_the_arms_name_where_there_is_one():
    assert "average" not in stage().training.identity(), "what was trained before keeps its name"
    assert stage(average=0.5).training.identity()["average"] == 0.5


def test_a_snapshot_is_taken_after_its_share_of_the_steps():
    one = plan(teacher=None)
    steps, _ = answered(Snapshot(at=0.25).distilled(one), known)
    first, rest = steps
    assert (first.training.total, rest.training.total) == (3, 9)
    assert [term.name for term in first.terms] == ["labels"]
    assert {term.name for term in rest.terms} == {"labels", "soft-targets"}
    assert all(
        torch.equal(value, rest.teacher.module.state_dict()[name])
        for name, value in rest.start.module().state_dict().items()
    ), "it begins as its teacher"
    with pytest.raises(LimbeckError, match="two steps at least"):
        Snapshot().stages(plan(teacher=None, training=one.training.model_copy(update={"steps": 1})))


@pytest.mark.parametrize("regime", [Ema(), Snapshot()], ids=lambda one: one.name)
def test_who_is_its_own_teacher_takes_no_other_and_needs_something_to_learn(regime):
    with pytest.raises(LimbeckError, match="its own teacher: leave 'teacher' out"):
        regime.stages(plan(teacher=teacher()))
    with pytest.raises(LimbeckError, match="add soft-targets"):
        regime.stages(plan(teacher=None, terms=(LABELS,)))


@pytest.mark.parametrize("regime", ["ema", "snapshot", "born-again"])
def test_a_run_without_a_teacher_says_whether_it_helped(regime, tmp_path, monkeypatch):
    from tests.fakes.experiments import Clouds

    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    table = Clouds(150)
    rows = [(table.x[row], int(table.labels[row])) for row in range(150)]
    brief = {"steps": 20, "batch-size": 16}
    objective = (LABELS, SoftTargets(weight=0.7))
    result = limbeck.distill(
        None, Net, rows, objective=objective, training=brief, seeds=2, regime=regime, quiet=True, out=tmp_path / "out"
    )
    arms = list(result.evidence.arms.present())
    assert arms == (["control", "distilled"] if regime == "ema" else ["control", "final_stage", "distilled"])
    assert any("teach themselves" in note for note in result.evidence.notes)
    assert result.report_path.exists()


def test_there_is_nothing_to_label_without_a_teacher():
    with pytest.raises(LimbeckError, match="no teacher: in the regime 'ema'"):
        label(read(bundled()["ema"]))


def test_without_a_teacher_the_offline_regime_is_refused(tmp_path):
    rows = [(torch.zeros(12), row % 3) for row in range(60)]
    with pytest.raises(LimbeckError, match="'offline' needs a teacher"):
        limbeck.distill(None, Net, rows, out=tmp_path)
