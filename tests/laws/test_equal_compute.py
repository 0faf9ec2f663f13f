"""The control at equal compute: what a step costs, how many steps that buys, and that nothing else is changed by it."""

import json
from dataclasses import replace

import pytest
import torch
from tests.contracts.test_regime_contract import REGIMES, answered, known, layered
from tests.fakes import causal
from tests.fakes.experiments import CLASSES, HINTS, LABELS, SOFT, WIDTH, Clouds, Net, language, plan, smooth, stage
from torch import nn
from torch.nn import functional as F

from limbeck.advice.compute import counting, step_cost
from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.evidence.schema import Evidence
from limbeck.models.given import Given
from limbeck.regimes.budget import EQUAL_COMPUTE, Compute, at_equal_compute, control_stage
from limbeck.regimes.offline import Offline
from limbeck.run import distill
from limbeck.run.arms import arms_of, compute_of
from limbeck.run.experiment import Experiment
from limbeck.teachers.local import LocalTeacher
from limbeck.training.stage import Stage

ROWS, HIDDEN, WIDE = 16, 16, 32
# forward, gradients of both weights, and of the one layer whose input has a gradient; an addition and a product are two
NET = 2 * ROWS * (2 * (WIDTH * HIDDEN + HIDDEN * CLASSES) + HIDDEN * CLASSES)
TEACHER = 2 * ROWS * (WIDTH * WIDE + WIDE * CLASSES)


def experiment(given, store, **changes):
    return Experiment(
        name="tiny",
        settings={},
        splits=given.splits,
        student=given.student,
        terms=given.terms,
        training=given.training,
        teacher=given.teacher,
        store=store,
        **{"equal_compute": True, "views": given.views, **changes},
    )


def plain(**changes):
    return plan(**{"student": Given(smooth), "views": 0, **changes})


def test_a_step_costs_what_its_products_do():
    cost = step_cost(stage(smooth, terms=(LABELS, SOFT)), "cpu")
    assert (cost.student, cost.teacher, cost.writing) == (NET, TEACHER, 0)
    assert step_cost(stage(smooth, terms=(LABELS,), teacher=None), "cpu").whole == NET
    halves = step_cost(stage(smooth, terms=(LABELS, SOFT), accumulate=2), "cpu")
    assert (halves.student, halves.teacher) == (NET, TEACHER)
    hints = step_cost(stage(smooth, terms=(LABELS, HINTS)), "cpu")
    assert hints.student > NET, "a projector is work too"


def test_attention_is_counted():
    rows, heads, length, width = 2, 4, 16, 8
    states = torch.randn(rows, heads, length, width)
    with counting() as counter:
        F.scaled_dot_product_attention(states, states, states)
    assert counter.get_total_flops() == 2 * 2 * rows * heads * length**2 * width


def test_a_language_models_step_is_counted_whole():
    own = language()
    cost = step_cost(own, "cpu")
    module = causal.made("llama", num_hidden_layers=2)
    matrices = sum(
        value.numel() for name, value in module.named_parameters() if value.ndim == 2 and "embed" not in name
    )
    tokens = own.training.batch_size * 9
    assert cost.student > 0.9 * 6 * matrices * tokens / 2, "about six a weight and token, padding included"
    assert cost.teacher > 0
    state = torch.random.get_rng_state()
    assert step_cost(own, "cpu") == cost
    assert torch.equal(torch.random.get_rng_state(), state)


def test_steps_are_bought_for_what_the_distilled_student_cost():
    assert Compute(distilled=300.0, control_step=10.0, steps=12).matched_steps == 30
    assert Compute(distilled=90.0, control_step=10.0, steps=12).matched_steps == 12, "never fewer than the control has"
    assert Compute(distilled=180.0, control_step=10.0, steps=12).ratio == 1.5


@pytest.mark.parametrize("store", [False, True])
def test_a_teacher_is_counted_when_it_is_asked(store):
    given = plain()
    found = compute_of(experiment(given, store), given)
    steps, rows = given.training.total, len(given.splits.train)
    asked = TEACHER / ROWS * (rows if store else steps * ROWS)  # a stored answer is asked for once
    assert found is not None
    assert found.distilled == pytest.approx(steps * NET + asked)
    assert (found.control_step, found.steps) == (NET, steps)
    assert found.matched_steps == round((steps * NET + asked) / NET)
    views = plain(views=2)
    twice = compute_of(experiment(views, store), views)
    assert twice is not None
    assert twice.distilled == pytest.approx(steps * NET + asked * (2 if store else 1))


SEVERAL = {"federated", "continual"}  # regimes whose control has several trainings


@pytest.mark.parametrize("regime", [one for one in REGIMES if one.name in SEVERAL], ids=lambda regime: regime.name)
def test_a_control_of_several_trainings_is_not_given_more(regime, tmp_path):
    one = layered(tmp_path, regime)
    with pytest.raises(LimbeckError, match=r"equal-compute.*its control has several trainings"):
        compute_of(experiment(one, False, regime=regime), one)
    assert compute_of(experiment(one, False, regime=regime, equal_compute=False), one) is None


@pytest.mark.parametrize("regime", [one for one in REGIMES if one.name not in SEVERAL], ids=lambda regime: regime.name)
def test_it_is_the_control_with_more_steps_and_nothing_else(regime, tmp_path):
    one = layered(tmp_path, regime)
    control = regime.core.arms(one)["control"]
    before = control_stage(control, one)
    compute = Compute(before.training.total * 25.0, 10.0, before.training.total)
    steps, _ = answered(at_equal_compute(control, compute)(one), known)
    (own,) = [step for step in steps if isinstance(step, Stage)]
    assert own.training.total == compute.matched_steps == round(2.5 * before.training.total)
    assert own.name == "control at equal compute, seed 0"
    same = replace(own, training=before.training)
    assert digest(same.identity(same.start.module())) == digest(before.identity(before.start.module()))


def test_it_stands_beside_the_control_and_only_where_it_is_asked_for():
    given = plain(terms=(LABELS, SOFT, HINTS))
    compute = Compute(300.0, 10.0, 12)
    asked, silent = (experiment(given, False, equal_compute=flag) for flag in (True, False))
    assert list(arms_of(asked, given, compute)) == ["control", EQUAL_COMPUTE, "soft_targets", "distilled"]
    assert list(arms_of(silent, given, compute)) == list(Offline().arms(given))
    assert compute_of(silent, given) is None


class Elsewhere(LocalTeacher):
    """Answers without doing anything here."""

    def observe(self, batch, needs):
        return {"logits": torch.zeros(len(batch.ids), CLASSES)}


def test_what_cannot_be_counted_is_refused():
    far = plain(teacher=Elsewhere(Net(), "far"))
    with pytest.raises(LimbeckError, match=r"equal-compute.*multiplies no matrices here"):
        compute_of(experiment(far, False), far)

    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(CLASSES))

        def forward(self, x):
            return x[:, :CLASSES] + self.weight

    light = plain(student=Given(Bias))
    with pytest.raises(LimbeckError, match="no product of matrices"):
        compute_of(experiment(light, False), light)


def knowing() -> nn.Linear:
    """Answers by the nearest cloud's centre, with one product of matrices."""
    centres = torch.stack([Clouds(150).x[Clouds(150).labels == one].mean(0) for one in range(CLASSES)])
    found = nn.Linear(WIDTH, CLASSES)
    found.load_state_dict({"weight": 2 * centres, "bias": -centres.square().sum(1)})
    return found


def test_a_run_says_it_and_older_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    table = Clouds(150)
    rows = [(table.x[row], int(table.labels[row])) for row in range(150)]
    given = {"training": {"steps": 12, "batch-size": 16}, "seeds": 2, "quiet": True, "store": False}
    alone = distill(knowing(), smooth, rows, out=tmp_path / "alone", **given)
    kept = {path.parent.parent.name for path in (tmp_path / "home").glob("arms/*/*/finished/model.safetensors")}
    both = distill(knowing(), smooth, rows, out=tmp_path / "both", equal_compute=True, **given)
    arms = both.evidence.arms
    teacher = 2 * ROWS * WIDTH * CLASSES
    assert arms.distilled.flops == 12 * (NET + teacher)
    assert arms.equal_compute.steps == (round(12 * (NET + teacher) / NET),) * 2 == (13, 13)
    assert arms.equal_compute.flops == 13 * NET
    assert arms.control.per_seed == alone.evidence.arms.control.per_seed
    every = {path.parent.parent.name for path in (tmp_path / "home").glob("arms/*/*/finished/model.safetensors")}
    assert kept < every, "what was trained before is used again"
    assert len(every) == len(kept) + 2
    matched = both.evidence.at_equal_compute
    assert matched.difference.mean == pytest.approx(
        arms.distilled.mean.score - arms.equal_compute.mean.score, abs=1e-12
    )
    page = both.report_path.read_text()
    assert "Against a control with as much compute" in page
    assert "Control, equal compute" in page
    assert "steps" in str(both).splitlines()[0]
    assert "Against a control" in str(both)
    old = json.loads((tmp_path / "both" / "evidence.json").read_text())
    for name in ("at_equal_compute", "samples"):
        del old[name]
    del old["arms"]["equal_compute"]
    for arm in old["arms"].values():
        if arm:
            del arm["flops"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert Evidence.read(tmp_path / "old.json").arms.control == arms.control.model_copy(update={"flops": None})
